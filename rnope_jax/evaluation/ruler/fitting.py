"""Making a text as long as a budget of tokens allows, in a bounded number of tries."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

#: A text is long enough when it lacks at most this share of the budget.
_SHORT = 0.005
#: Rather than to cut a word it may lack this much.
_SHORTER = 0.01

#: Sizes that are tried before the search gives up getting closer; halving alone needs about 20.
_TRIES = 60
#: Of these, those that guess where the end is from the tokens that a unit takes, before the search only halves.
_GUESSES = 8


class Text(Protocol):
    """A text of variable length."""

    most: int
    """Units that there are."""

    def build(self, units: int, letters: int) -> str:
        """The text with so many units, and so many letters to fill what is less than a unit."""
        ...

    def filler(self, units: int) -> str:
        """The letters that fill what is less than one more unit."""
        ...


class Size(NamedTuple):
    """How much a text has of each."""

    units: int
    letters: int
    tokens: int


def fit(text: Text, budget: int, count: Callable[[str], int], least: int, guess: int | None = None) -> Size | None:
    """The largest size at which a text takes at most `budget` tokens, or one that lacks half a percent of it.

    Args:
      text: what is sized.
      budget: most tokens.
      count: tokens of a text.
      least: fewest units.
      guess: units to try first.

    Returns:
      The size; None if not even the fewest units fit.
    """
    found = _units(text, budget, lambda units: count(text.build(units, 0)), least, guess)
    if found is None or found.tokens >= budget * (1 - _SHORT):
        return found
    return _letters(text, budget, count, found)


def _units(text: Text, budget: int, tokens: Callable[[int], int], least: int, guess: int | None) -> Size | None:
    first = tokens(least)
    if first > budget:
        return None
    # A unit takes a token at least, nearly always; the limit also holds where a tokenizer makes nothing of it.
    most = max(least, min(text.most, 2 * budget))
    low, size, high = least, first, most + 1  # the text fits at `low`, and does not at `high`
    rate = 0.0
    for attempt in range(_TRIES):
        if high - low <= 1 or size >= budget * (1 - _SHORT):
            break
        if attempt < _GUESSES:
            step = int((budget - size) / rate) if rate else (guess or least + 8) - low
            unit = low + max(1, step)
        elif high > most:
            unit = 2 * low + 8
        else:
            unit = (low + high) // 2
        unit = min(unit, high - 1)
        taken = tokens(unit)
        rate = max((taken - first) / (unit - least), 1e-3)
        if taken <= budget:
            low, size = unit, taken
        else:
            high = unit
    return Size(low, 0, size)


def _letters(text: Text, budget: int, count: Callable[[str], int], found: Size) -> Size:
    filler = text.filler(found.units)
    low, size, high = 0, found.tokens, len(filler) + 1
    while high - low > 1:
        middle = (low + high) // 2
        taken = count(text.build(found.units, middle))
        if taken <= budget:
            low, size = middle, taken
        else:
            high = middle
    word = filler.rfind(" ", 0, low + 1)  # where the last whole word ends
    if 0 < word < low and low < len(filler) and filler[low] != " ":
        taken = count(text.build(found.units, word))
        if budget * (1 - _SHORTER) <= taken <= budget:
            low, size = word, taken
    return Size(found.units, low, size) if size >= found.tokens else found
