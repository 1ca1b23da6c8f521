"""RULER's two tasks of aggregation: the most common words of a list, and of a coded text."""

import math
import random
import string
from dataclasses import dataclass
from itertools import islice
from typing import Any

from rnope_jax.evaluation.ruler import words
from rnope_jax.evaluation.ruler.samples import Draft, Drawing

COMMON_TEMPLATE = (
    "Below is a numbered list of words. In these words, some appear more often than others. Memorize the ones that "
    "appear most often.\n{context}\nQuestion: What are the {num_cw} most common words in the above list?"
)
COMMON_PREFIX = " Answer: The top {num_cw} words that appear most often in the list are:"

FREQUENT_TEMPLATE = (
    "Read the following coded text and track the frequency of each coded word. Find the three most frequently appeared "
    "coded words. {context}\nQuestion: Do not provide any explanation. Please ignore the dots '....'. What are the "
    "three most frequently appeared words in the above coded text?"
)
FREQUENT_PREFIX = " Answer: According to the coded text above, the three most frequently appeared words are:"

#: Budget from which the lists of common words are long.
_LONG = 4096


@dataclass(frozen=True)
class Common:
    """How often words are repeated; None is RULER's number for the budget."""

    common: int = 10
    often: int | None = None
    """Times that each common word appears: 30, or 6 below 4,096 tokens."""
    seldom: int | None = None
    """Times that every other word appears: 3, or 1 below 4,096 tokens."""
    example: bool = True
    """Whether a worked example stands before the list."""
    brief: bool = False

    def repeats(self, length: int) -> tuple[int, int]:
        """Times that common and other words appear in a sample of this budget."""
        often, seldom = (30, 3) if length >= _LONG else (6, 1)
        return self.often or often, self.seldom or seldom


COMMON_VARIANTS = (
    Common(),
    Common(often=6, seldom=1),
    Common(often=6, seldom=1, example=False),
    Common(often=3, seldom=1, example=False, brief=True),
    Common(common=5, often=3, seldom=1, example=False, brief=True),
    Common(common=3, often=3, seldom=1, example=False, brief=True),
    Common(common=2, often=2, seldom=1, example=False, brief=True),
)


def draft_common(drawing: Drawing, variant: Common) -> Draft:
    """A sample of common words extraction."""
    rng = drawing.rng
    often, seldom = variant.repeats(drawing.length)
    pool = words.distinct(rng)
    example = ""
    if variant.example:
        size, *repeats = (40, 10, 3) if seldom == 3 else (20, 3, 1)
        chosen = list(islice(pool, size))
        shown = chosen[: variant.common]
        listed = _numbered(rng, shown * repeats[0] + chosen[variant.common :] * repeats[1])
        example = _common(listed, variant.common) + COMMON_PREFIX.format(num_cw=variant.common)
        example += f"{_answer(shown)}\n"
    common = list(islice(pool, variant.common))
    rest = list(islice(pool, max(32, drawing.length // 3)))  # an entry takes three tokens at least
    text = _WordList(example, common, rest, often, seldom, rng.random())

    def others(units: int) -> dict[str, Any]:
        return {
            "common_words": len(common),
            "common_repeats": often,
            "uncommon_words": units,
            "uncommon_repeats": seldom,
            "examples": int(bool(example)),
        }

    return Draft(
        text=text,
        answer_prefix=COMMON_PREFIX.format(num_cw=variant.common),
        outputs=tuple(common),
        answer=f" {_answer(common)}",
        least=4,
        others=others,
    )


def _common(listed: str, count: int) -> str:
    return COMMON_TEMPLATE.format(context=listed, num_cw=count)


def _answer(common: list[str]) -> str:
    return " ".join(f"{number}. {word}" for number, word in enumerate(common, 1))


def _numbered(rng: random.Random, listed: list[str]) -> str:
    rng.shuffle(listed)
    return _answer(listed)


class _WordList:
    """Common words and uncommon ones in a numbered list."""

    def __init__(self, example: str, common: list[str], rest: list[str], often: int, seldom: int, seed: float):
        self._example, self._common, self._rest = example, common, rest
        self._often, self._seldom, self._seed = often, seldom, str(seed)
        self.most = len(rest)

    def build(self, units: int, letters: int) -> str:
        chosen = self._rest[:units]
        if letters:  # the last uncommon word gets longer
            chosen[-1] += "-" + self.filler(units)[:letters]
        listed = _numbered(random.Random(self._seed), self._common * self._often + chosen * self._seldom)
        return self._example + _common(listed, len(self._common))

    def filler(self, units: int) -> str:
        return "-".join(self._rest[-12:]).replace(" ", "")


@dataclass(frozen=True)
class Frequent:
    """How word frequencies fall."""

    alpha: float = 2.0
    """The word of rank k appears in proportion to k^-alpha; the first rank is dots."""
    letters: int = 6
    """Of a coded word."""
    brief: bool = False


FREQUENT_VARIANTS = (Frequent(), Frequent(brief=True), Frequent(letters=4, brief=True))


def draft_frequent(drawing: Drawing, variant: Frequent) -> Draft:
    """A sample of frequent words extraction."""
    rng = drawing.rng
    size = max(5, drawing.length // 50)
    numbers = rng.sample(range(26**variant.letters), size)
    vocabulary = [
        "".join(string.ascii_lowercase[number // 26**place % 26] for place in range(variant.letters))
        for number in numbers
    ]
    vocabulary[0] = "..."
    text = _CodedText(vocabulary, variant.alpha, rng.random())

    def others(units: int) -> dict[str, Any]:
        return {"vocabulary": size, "words": units, "alpha": variant.alpha, "counts": text.counts(units)[1:5]}

    top = tuple(vocabulary[1:4])
    return Draft(text, FREQUENT_PREFIX, top, f" {', '.join(top)}.", least=27, others=others)


class _CodedText:
    """Words drawn by a zeta distribution, in random order."""

    most = 1 << 40

    def __init__(self, vocabulary: list[str], alpha: float, seed: float):
        self._vocabulary, self._alpha, self._seed = vocabulary, alpha, str(seed)
        self._zeta = zeta(alpha)

    def counts(self, units: int) -> list[int]:
        """How often each word appears."""
        counts = [int(units * rank**-self._alpha / self._zeta) for rank in range(1, len(self._vocabulary) + 1)]
        # So few words can tie; the three that are asked for must not tie with a fourth.
        return counts[:4] + [min(count, counts[3] - 1) for count in counts[4:]]

    def build(self, units: int, letters: int) -> str:
        listed = [word for word, count in zip(self._vocabulary, self.counts(units), strict=True) for _ in range(count)]
        listed += [self._vocabulary[0]] * letters
        random.Random(self._seed).shuffle(listed)
        return FREQUENT_TEMPLATE.format(context=" ".join(listed))

    def filler(self, units: int) -> str:
        return "." * 64


def zeta(alpha: float) -> float:
    """Riemann's zeta function for alpha > 1: a sum, and an integral for its tail."""
    terms = 1000
    tail = terms ** (1 - alpha) / (alpha - 1) - 0.5 * terms**-alpha + alpha * terms ** (-alpha - 1) / 12
    return math.fsum(k**-alpha for k in range(1, terms + 1)) + tail
