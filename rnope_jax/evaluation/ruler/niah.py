"""RULER's eight retrieval tasks: sentences with keys and values, hidden in a haystack."""

import random
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Literal

from rnope_jax.evaluation.ruler import words
from rnope_jax.evaluation.ruler.samples import NOISE, Draft, Drawing, insert

TEMPLATE = (
    "Some special magic {type_needle_v} are hidden within the following text. Make sure to memorize it. I will quiz "
    "you about the {type_needle_v} afterwards.\n{context}\nWhat are all the special magic {type_needle_v} for {query} "
    "mentioned in the provided text?"
)
ANSWER_PREFIX = " The special magic {type_needle_v} for {query} mentioned in the provided text are"
NEEDLE = "One of the special magic {type_needle_v} for {key} is: {value}."

#: Depths at which needles stand in an essay, in percent.
DEPTHS = tuple(round(100 * step / 39) for step in range(40))

_SENTENCE = re.compile(r"(?<=[.!?])\s+")

Kind = Literal["words", "numbers", "uuids"]


@dataclass(frozen=True)
class Needles:
    """What is hidden where."""

    haystack: Literal["noise", "essay", "needles"]
    key: Kind = "words"
    value: Kind = "numbers"
    keys: int = 1
    """Keys in the haystack, without those of a haystack of needles."""
    values: int = 1
    """Values of each key."""
    queries: int = 1
    """Keys that are asked for."""
    groups: int = 5
    """Groups of digits of a uuid."""
    depth: float | None = None
    """Where a single needle stands in an essay, in percent; None draws it."""
    brief: bool = False

    @property
    def singular(self) -> bool:
        """Whether one value is asked for."""
        return self.queries * self.values == 1


def variants(needles: Needles) -> tuple[Needles, ...]:
    """The task, then the same with less room for the answer, then with less of what it has several of."""
    found = [needles, brief := replace(needles, brief=True)]
    for fewer in (3, 2):
        small = replace(
            brief, keys=min(brief.keys, fewer), values=min(brief.values, fewer), queries=min(brief.queries, fewer)
        )
        found += [small] if small not in found else []
    for groups in (2, 1):
        found += [replace(found[-1], groups=groups)] if "uuids" in (needles.key, needles.value) else []
    return tuple(found)


def draft(drawing: Drawing, needles: Needles) -> Draft:
    """A sample of a retrieval task."""
    rng = drawing.rng
    keys: list[str] = []
    while len(keys) < needles.keys:
        key = _random(rng, needles.key, needles.groups)
        keys += [key] if key not in keys else []
    values = {key: [_random(rng, needles.value, needles.groups) for _ in range(needles.values)] for key in keys}
    sentences = [_needle(needles, key, value) for key in keys for value in values[key]]
    rng.shuffle(sentences)
    queries = rng.sample(keys, needles.queries)
    query = queries[0] if len(queries) == 1 else ", ".join(queries[:-1]) + ", and " + queries[-1]
    outputs = tuple(value for key in queries for value in values[key])
    template, prefix = _templates(needles)
    kind: str = needles.value
    words = {"type_needle_v": kind[:-1] if needles.singular else kind, "query": query}
    before, after = (part.format(**words) for part in template.split("{context}"))
    text: _Essay | _Lines
    if needles.haystack == "essay":
        depths = [needles.depth] if needles.depth is not None else rng.sample(DEPTHS, len(sentences))
        text = _Essay(before, after, drawing.material.haystack, sentences, sorted(depths))
    else:
        text = _Lines(before, after, needles, sentences, [rng.random() for _ in sentences], set(keys), rng.random())

    def others(units: int) -> dict[str, Any]:
        many = needles.haystack == "needles"
        return {
            "needles": len(sentences),
            "queries": len(queries),
            "distractors": units if many else len(sentences) - len(outputs),
            "haystack": needles.haystack,
            "haystack_units": units,
            **({"depths": text.depths} if isinstance(text, _Essay) else {}),
        }

    return Draft(
        text=text,
        answer_prefix=prefix.format(**words),
        outputs=outputs,
        answer=" " + ", ".join(outputs) + ".",
        least=20 if needles.haystack == "essay" else 1,
        others=others,
    )


class _Essay:
    """Prose, with needles after sentences."""

    most = 1 << 40

    def __init__(self, before: str, after: str, haystack: tuple[str, ...], needles: list[str], depths: list[float]):
        self._before, self._after, self._haystack = before, after, haystack
        self._needles, self.depths = needles, depths

    def build(self, units: int, letters: int) -> str:
        text = " ".join(self._words(units))
        if letters:
            text += " " + self.filler(units)[:letters]
        sentences = _SENTENCE.split(text.strip())
        parts, last = [], 0
        for needle, depth in zip(self._needles, self.depths, strict=True):
            place = int(len(sentences) * depth / 100)
            parts += [*sentences[last:place], needle]
            last = place
        return self._before + " ".join([*parts, *sentences[last:]]) + self._after

    def filler(self, units: int) -> str:
        return " ".join(self._words(units + 24)[units:])

    def _words(self, count: int) -> tuple[str, ...]:
        repeats = -(-count // len(self._haystack))
        return (self._haystack * repeats)[:count]


class _Lines:
    """Lines that say nothing, or needles for other keys, with the needles among them."""

    most = 1 << 40

    def __init__(
        self,
        before: str,
        after: str,
        needles: Needles,
        sentences: list[str],
        places: list[float],
        taken: set[str],
        seed: float,
    ):
        self._before, self._after = before, after
        self._sentences, self._places = sentences, places
        self._made: list[str] = []
        self._more = (
            self._distractors(needles, taken, random.Random(str(seed))) if needles.haystack == "needles" else None
        )

    def build(self, units: int, letters: int) -> str:
        lines = insert(self._lines(units), self._sentences, self._places)
        if letters:
            lines.append(self.filler(units)[:letters])
        return self._before + "\n".join(lines) + self._after

    def filler(self, units: int) -> str:
        # Not a piece of a needle: it could be taken for one.
        return " ".join([NOISE] * 3)

    def _lines(self, units: int) -> list[str]:
        if self._more is None:
            return [NOISE] * units
        self._made.extend(islice(self._more, max(0, units - len(self._made))))
        return self._made[:units]

    @staticmethod
    def _distractors(needles: Needles, taken: set[str], rng: random.Random) -> Iterator[str]:
        while True:
            key = _random(rng, needles.key, needles.groups)
            value = _random(rng, needles.value, needles.groups)
            if key not in taken:
                yield _needle(needles, key, value)


def _templates(needles: Needles) -> tuple[str, str]:
    """Template and answer prefix, in the singular where one value is asked for."""
    pair = TEMPLATE, ANSWER_PREFIX
    if not needles.singular:
        return pair
    for old, new in (("Some", "A"), ("are all", "is"), ("are", "is")):
        pair = pair[0].replace(old, new), pair[1].replace(old, new)
    return pair


def _needle(needles: Needles, key: str, value: str) -> str:
    return NEEDLE.format(type_needle_v=needles.value, key=key, value=value)


def _random(rng: random.Random, kind: Kind, groups: int) -> str:
    if kind == "words":
        return words.compound(rng)
    if kind == "numbers":
        return str(rng.randint(10**6, 10**7 - 1))
    return "-".join(str(uuid.UUID(int=rng.getrandbits(128), version=4)).split("-")[:groups])
