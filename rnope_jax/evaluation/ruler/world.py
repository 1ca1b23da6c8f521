"""Documents and questions about an invented country, as many as are asked for.

Every document is a function of its number alone, so a question and its answer are the same on every
machine. Nothing in them is true, so no model knows an answer beforehand.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from rnope_jax.evaluation.ruler.words import NOUNS


def _split(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_HEADS = _split("Al Bar Cor Den El Fal Gan Hol Ist Jor Kel Lor Mar Nor Ost Pel Quar Ros Sel Tor Ul Var Wen Yar")
_MIDDLES = _split("a e i o u an en in on ar er or al el il ol")
_TAILS = _split("bridge bury by combe dale field ford ham holm mere mouth stead stow ton wick worth")

_FIRST = _split("Ada Bruno Clara Dorian Edith Felix Greta Hugo Ines Jonas Klara Leon Mina Nils Olga Piet Rosa Sven Wim")
_LAST = _split("ande berg dahl ert field gren holt ing lund mann nes quist rud stad strom thal vik wald zen")

_TRADES = _split("baker carpenter clockmaker cooper glazier mason miller potter printer saddler tailor tinker weaver")
_GOODS = _split("bells brooms candles carpets cheese chairs combs kites lamps linen paper pottery rope saddles soap")
_SUBJECTS = _split("algebra astronomy botany chemistry drawing geometry grammar history law medicine music poetry")
_MONTHS = _split("January February March April May June July August September October November December")


@dataclass(frozen=True)
class Town:
    """A place, and the person who founded it."""

    number: int
    name: str
    river: str
    year: int
    founder: str
    trade: str
    goods: str
    month: str
    feast: str
    birthplace: str
    subject: str

    @property
    def document(self) -> str:
        """What is told of the town."""
        return (
            f"{self.name}\n{self.name} is a town on the river {self.river}. It was founded in {self.year} by "
            f"{self.founder}, and its people are known for their {self.goods}. Every {self.month} they hold the feast "
            f"of the {self.feast}."
        )

    @property
    def founder_document(self) -> str:
        """What is told of its founder."""
        return (
            f"{self.founder}\n{self.founder} was a {self.trade} who was born in {self.birthplace} and later taught "
            f"{self.subject}."
        )


@lru_cache(maxsize=8192)
def town(number: int) -> Town:
    """The town of this number; no two have the same name or founder."""
    rng = random.Random(f"town {number}")

    def person(number: int) -> str:
        middle, last = divmod(number // len(_FIRST), len(_LAST))
        return f"{_FIRST[number % len(_FIRST)]} {_spelled(middle)}{_LAST[last]}"

    return Town(
        number=number,
        name=_name(number),
        river=rng.choice(_HEADS) + rng.choice(_MIDDLES) + "sel",
        year=rng.randint(1100, 1899),
        founder=person(number),
        trade=rng.choice(_TRADES),
        goods=rng.choice(_GOODS),
        month=rng.choice(_MONTHS),
        feast=rng.choice(NOUNS),
        birthplace=_name(1_000_000 + rng.randrange(1_000_000)),
        subject=rng.choice(_SUBJECTS),
    )


def single(town: Town) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Questions that one document answers, their answers, and the sentence that says so."""
    name = town.name
    yield f"Who founded the town of {name}?", town.founder, (f"{name} was founded by {town.founder}.",)
    yield f"In what year was the town of {name} founded?", str(town.year), (f"{name} was founded in {town.year}.",)
    yield f"On which river does the town of {name} lie?", town.river, (f"{name} is a town on the river {town.river}.",)
    yield f"What are the people of {name} known for?", town.goods, (f"{name} is known for its {town.goods}.",)
    yield f"In which month do the people of {name} hold their feast?", town.month, (f"{name} feasts in {town.month}.",)


def double(town: Town) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Questions that need the town's document and its founder's, as `single`."""
    name, founder = town.name, town.founder
    first = f"{name} was founded by {founder}."
    yield (
        f"In which place was the founder of {name} born?",
        town.birthplace,
        (
            first,
            f"{founder} was born in {town.birthplace}.",
        ),
    )
    yield f"What was the trade of the founder of {name}?", town.trade, (first, f"{founder} was a {town.trade}.")
    yield f"What did the founder of {name} teach?", town.subject, (first, f"{founder} taught {town.subject}.")


def _name(number: int) -> str:
    """A name for each number: the heads, middles and tails are its digits."""
    rest, tail = divmod(number, len(_TAILS))
    rest, head = divmod(rest, len(_HEADS))
    return _HEADS[head] + _spelled(rest) + _TAILS[tail]


def _spelled(number: int) -> str:
    """Syllables that stand for a number, none for 0."""
    made = ""
    while number:
        number, digit = divmod(number - 1, len(_MIDDLES) * 8)
        consonant = "bdglmnrt"[digit // len(_MIDDLES)]
        made += consonant + _MIDDLES[digit % len(_MIDDLES)]
    return made
