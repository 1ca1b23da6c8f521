"""Rows of different lengths in few batches of few shapes, so that little is compiled and little padded."""

from collections.abc import Sequence
from typing import NamedTuple

from rnope_jax.inference.generate import rounded

#: Tokens of a batch, unless told otherwise.
BATCH_TOKENS = 16_384

#: Most rows of a batch.
_ROWS = 64


class Group(NamedTuple):
    """Rows that are computed together."""

    rows: tuple[int, ...]
    """Which rows."""
    size: int
    """Rows of the batch: a power of two. Those beyond `rows` are copies of one, to be thrown away."""

    def fill(self, values: Sequence) -> list:
        """The values of these rows, filled up to the size of the batch."""
        chosen = [values[row] for row in self.rows]
        return chosen + [chosen[-1]] * (self.size - len(chosen))


def grouped(lengths: Sequence[int], tokens: int = BATCH_TOKENS) -> list[Group]:
    """Groups rows of like lengths, the longest first: what does not fit into memory fails at once.

    Args:
      lengths: tokens of each row.
      tokens: most tokens of a batch, unless a single row has more.
    """
    order = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    groups, start = [], 0
    while start < len(order):
        most = max(1, min(_ROWS, tokens // rounded(lengths[order[start]])))
        left = len(order) - start
        size = min(1 << (most.bit_length() - 1), 1 << (left - 1).bit_length())
        groups.append(Group(tuple(order[start : start + size]), size))
        start += size
    return groups
