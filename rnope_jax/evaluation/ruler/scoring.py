"""How RULER scores an answer: by the references that are found in it."""

import re
from collections.abc import Callable, Sequence

#: Score of an answer by its references, between 0 and 1.
Score = Callable[[str, Sequence[str]], float]

_CONTROL = re.compile(r"[\x00-\x1f]")


def cleaned(answer: str) -> str:
    """An answer as it is searched: stripped, with line breaks in the place of control characters."""
    return _CONTROL.sub("\n", answer.strip()).strip()


def string_match_all(answer: str, references: Sequence[str]) -> float:
    """The share of the references that the answer holds, whatever their case."""
    text = cleaned(answer).lower()
    return sum(reference.lower() in text for reference in references) / len(references)


def string_match_part(answer: str, references: Sequence[str]) -> float:
    """1 if the answer holds any of the references, whatever its case, else 0."""
    text = cleaned(answer).lower()
    return float(any(reference.lower() in text for reference in references))
