"""What RULER's tasks have in common: drafts of samples, and the samples that are made of them."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from rnope_jax.evaluation.ruler.fitting import Text
from rnope_jax.evaluation.ruler.sources import Material

#: Lines of the haystack that says nothing.
NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."


@dataclass(frozen=True)
class Sample:
    """A prompt and what is expected after it."""

    index: int
    input: str
    """The prompt without its answer prefix."""
    answer_prefix: str
    """The beginning of the answer, with which the prompt ends."""
    outputs: tuple[str, ...]
    """What is looked for in the answer."""
    length: int
    """Tokens of the prompt, the start token included, and those kept for the answer."""
    max_length: int
    """The budget."""
    tokens_to_generate: int
    """Tokens kept for the answer."""
    others: Mapping[str, Any]
    """What the sample consists of."""

    @property
    def prompt(self) -> str:
        """What the model continues."""
        return self.input + self.answer_prefix


@dataclass(frozen=True)
class Draft:
    """A sample whose length is still open."""

    text: Text
    """The prompt without its answer prefix."""
    answer_prefix: str
    outputs: tuple[str, ...]
    answer: str
    """A right answer, as long as one gets."""
    least: int
    """Fewest units of text that still make the task."""
    others: Callable[[int], dict[str, Any]]
    """What the sample consists of, by the units of its text."""


class Variant(Protocol):
    """A task as NVIDIA defines it, or cut down for budgets that this does not fit into."""

    @property
    def brief(self) -> bool:
        """Whether no more tokens are kept for the answer than a right one takes."""
        ...


@dataclass(frozen=True)
class Drawing:
    """What a draft is drawn from."""

    rng: random.Random
    index: int
    """Of the sample; another for every attempt."""
    length: int
    """The budget of the whole sample."""
    material: Material
    count: Callable[[str], int]
    """Tokens of a text, without a start token."""


def insert(lines: list[str], extra: list[str], fractions: list[float]) -> list[str]:
    """Lines with extra ones among them, the i-th at the i-th smallest of the fractions of their number."""
    places = sorted(int(fraction * (len(lines) + 1)) for fraction in fractions)
    result = list(lines)
    for number, (place, line) in enumerate(zip(places, extra, strict=True)):
        result.insert(place + number, line)
    return result
