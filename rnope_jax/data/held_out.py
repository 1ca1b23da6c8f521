"""Which documents of prepared data are held out.

A document is held out if its digest is among the lowest: at most `data.held_out_fraction` of the documents, and
at most `MOST` tokens. So equal documents are all held out or all learned from, and neither their order nor how
they were prepared matters. Files of other programs have no digests; there the number of a document decides.
A single document is divided.
"""

from collections.abc import Sequence

import numpy as np

from rnope_jax.data.store import Tokens
from rnope_jax.data.tokenizer import Tokenizer
from rnope_jax.data.views import Selected
from rnope_jax.errors import UserError

#: Tokens that are held out at most: measuring on all of them takes time at the end of a run.
MOST = 1 << 22


def split(
    tokens: Tokens, digests: np.ndarray | None, fraction: float, measured: np.ndarray | Sequence[int] = ()
) -> tuple[Selected, Selected]:
    """Divides tokens.

    Args:
      tokens: all of them.
      digests: of the documents, uint64; None if there are none.
      fraction: of the documents to be held out.
      measured: digests of documents that are held out elsewhere, not to be learned from.

    Returns:
      what is learned from, and what is held out.

    Raises:
      UserError: if nothing is left to learn from.
    """
    first = np.asarray(tokens.starts)
    stop = np.concatenate([first[1:], [len(tokens)]])
    if len(first) == 1:
        return _divide(tokens, fraction)
    ranks = _spread(np.arange(len(first), dtype=np.uint64)) if digests is None else digests
    held = ranks <= _threshold(ranks, stop - first, fraction)
    kept = ~held if digests is None else ~held & ~np.isin(digests, np.asarray(measured, np.uint64))
    if not kept.any():
        raise UserError(
            f"{tokens.where}: nothing is left to learn from, all of its documents are held out; "
            "lower data.held_out_fraction, or give more text"
        )
    train, held_out = (
        Selected(tokens, np.flatnonzero(chosen), first[chosen], stop[chosen], {"part": name})
        for name, chosen in (("train", kept), ("held_out", held))
    )
    return train, held_out


def is_held_out(digest: int, fraction: float) -> bool:
    """Whether a document may be held out; known before all documents are."""
    return digest < fraction * 2**64


def text_bytes(tokens: Tokens, tokenizer: Tokenizer) -> int:
    """UTF-8 bytes of the text that the counted tokens stand for."""
    total = 0
    stops = [*tokens.starts[1:].tolist(), len(tokens)]
    for first, stop in zip(tokens.starts.tolist(), stops, strict=True):
        found, flags = tokens.read(first, stop), tokens.counted(first, stop)
        total += len(tokenizer.decode((found if flags is None else found[flags]).tolist()).encode())
    return total


def _threshold(ranks: np.ndarray, lengths: np.ndarray, fraction: float) -> np.uint64:
    """The highest rank that is held out."""
    low = np.flatnonzero(ranks < np.uint64(fraction * 2**64))
    if not len(low):
        return np.uint64(ranks.min())
    low = low[np.argsort(ranks[low], kind="stable")]
    count = max(1, int(np.searchsorted(np.cumsum(lengths[low]), MOST, side="right")))
    return np.uint64(ranks[low[count - 1]])


def _divide(tokens: Tokens, fraction: float) -> tuple[Selected, Selected]:
    length = len(tokens)
    cut = max(int(length * (1 - fraction)), length - MOST, 1)
    if length < 2 or cut >= length:
        raise UserError(f"{tokens.where} is too short to hold out a part of it; give more text")
    zero = np.zeros(1, np.int64)
    return (
        Selected(tokens, zero, zero, zero + cut, {"part": "train"}),
        Selected(tokens, zero, zero + cut, zero + length, {"part": "held_out"}),
    )


def _spread(numbers: np.ndarray) -> np.ndarray:
    """Numbers that look random, each from one number alone (splitmix64)."""
    mixed = numbers + np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))
