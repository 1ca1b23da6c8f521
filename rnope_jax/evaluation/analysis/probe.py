"""Texts with a fact hidden in them and a question about it, in which every token has a known role."""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rnope_jax.data import Tokenizer
from rnope_jax.data.retrieval import Fact, draw_fact, vocabulary
from rnope_jax.errors import UserError
from rnope_jax.evaluation.lengths import LengthError

#: Parts of a probe, in the order of the paper's tables.
SEGMENTS = ("begin", "needle", "context", "qc")
BEGIN, NEEDLE, CONTEXT, QC = range(len(SEGMENTS))

#: Tokens at the start of a text that the paper counts apart: attention rests there when nothing calls it.
BEGIN_TOKENS = 10

#: Where a fact may be inserted: after a sentence or a line.
_PIECE = re.compile(r".+?(?:[.!?](?=\s)|\n+|\Z)", re.DOTALL)


@dataclass(frozen=True)
class Probe:
    """A tokenized text of an exact length."""

    tokens: np.ndarray
    """[n]"""
    segments: np.ndarray
    """[n]: the part that each token belongs to."""
    fact: Fact

    @property
    def questions(self) -> int:
        """Tokens of question and completion, which end the text."""
        return int((self.segments == QC).sum())


class Haystack:
    """Text in which facts are hidden, tokenized once, in pieces between which a fact may stand."""

    def __init__(self, text: str, tokenizer: Tokenizer, name: str = "haystack"):
        pieces = [list(tokens) for tokens in tokenizer.encode_batch(_PIECE.findall(text)) if tokens]
        if not pieces:
            raise UserError(f"{name}: there is no text in it")
        self.tokenizer = tokenizer
        self.words = vocabulary([text])
        self.tokens = np.concatenate([np.array(piece, np.int32) for piece in pieces])
        self.starts = np.cumsum([0, *map(len, pieces)])[:-1]

    def probe(self, length: int, depth: float, rng: random.Random) -> Probe:
        """A fact at a depth of a text of exactly `length` tokens.

        Args:
          length: tokens, the question and its answer included.
          depth: share of the text before the question that comes before the fact, moved to the
            nearest place between two sentences or lines; the first tokens are never displaced.
          rng: draws the fact and where the text begins; a text that is too short is repeated.

        Raises:
          LengthError: if the length is too short to hold anything but the fact and the question.
        """
        fact = draw_fact(self.words, rng)
        needle = self.tokenizer.encode(f"{fact.sentence}\n")
        question = self.tokenizer.encode(f"\n{fact.question}{fact.answer}")
        room = length - 1 - len(needle) - len(question)
        if room < 2 * BEGIN_TOKENS:
            least = length - room + 2 * BEGIN_TOKENS
            raise LengthError(
                f"length {length}: fact and question take {length - room} tokens, give at least {least}", length
            )
        first = int(rng.choice(self.starts))
        text = self._from(first, room)
        at = self._near(first, round(depth * room), room)
        tokens = np.concatenate([[self.tokenizer.bos_id], text[:at], needle, text[at:], question])
        parts = (BEGIN, CONTEXT, NEEDLE, CONTEXT, QC)
        sizes = (BEGIN_TOKENS, at + 1 - BEGIN_TOKENS, len(needle), room - at, len(question))
        segments = np.repeat(np.array(parts, np.int32), sizes)
        return Probe(tokens.astype(np.int32), segments, fact)

    def _from(self, first: int, count: int) -> np.ndarray:
        """`count` tokens from one of the pieces on, around the end as often as needed."""
        return self.tokens[(first + np.arange(count)) % len(self.tokens)]

    def _near(self, first: int, wanted: int, room: int) -> int:
        """The place between pieces nearest to `wanted`, counted from `first`; the wanted one where none is near."""
        offsets = (self.starts - first) % len(self.tokens)
        whole = wanted // len(self.tokens) * len(self.tokens)
        places = np.concatenate([offsets + whole + turn * len(self.tokens) for turn in (-1, 0, 1)])
        places = places[(places >= BEGIN_TOKENS - 1) & (places <= room)]
        return int(places[np.abs(places - wanted).argmin()]) if len(places) else max(wanted, BEGIN_TOKENS - 1)


def probes(
    haystack: Haystack, lengths: Sequence[int], depths: Sequence[float], samples: int, seed: int
) -> dict[tuple[int, float], list[Probe]]:
    """Probes by length and depth; each is a pure function of the seed, its length, depth and number."""
    return {
        (length, depth): [
            haystack.probe(length, depth, random.Random(f"{seed} {length} {depth} {sample}"))
            for sample in range(samples)
        ]
        for length in lengths
        for depth in depths
    }
