"""Rows of packed documents, cut from a token store."""

from typing import Any, NamedTuple

import numpy as np

from rnope_jax.data.store import TokenStore
from rnope_jax.errors import UserError


class Batch(NamedTuple):
    """Packed rows; every array is [rows, sequence length], or [sequence length] for a single row.

    NumPy arrays while the rows are on the host, JAX arrays once they are on the devices.
    """

    tokens: Any
    """Inputs, int32."""
    targets: Any
    """The token that follows each input, int32."""
    loss_mask: Any
    """1 where the target belongs to the same document and counts, else 0; float32."""
    positions: Any
    """Position of each token, counted from where its document starts in this row; int32."""
    segment_ids: Any
    """Document of each token within the row, from 1; 0 for padding; int32."""


class PackedRows:
    """The rows of a store: its documents one after the other, cut into rows of `length` tokens.

    Row i predicts tokens i * length + 1 to (i + 1) * length of the store; with `pad_last` a shorter
    last row is filled up with padding, so that every token but the first of a document is predicted once.
    """

    def __init__(self, store: TokenStore, length: int, *, pad_last: bool = False):
        self.store, self.length = store, length
        predicted = len(store) - 1
        self.rows = -(-predicted // length) if pad_last else predicted // length
        if self.rows < 1:
            raise UserError(
                f"the corpus in {store.directory} has {len(store)} tokens, too few for one row of {length}: "
                "give more text in data.corpus or a shorter sequence_length"
            )

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, index: int) -> Batch:
        first = index * self.length
        window = np.asarray(self.store.tokens[first : first + self.length + 1], np.int32)
        place = first + np.arange(len(window))
        document = np.searchsorted(self.store.starts, place, side="right") - 1
        start = np.maximum(self.store.starts[document], first)
        real = len(window) - 1
        row = Batch(
            tokens=window[:-1],
            targets=window[1:],
            loss_mask=(document[1:] == document[:-1]).astype(np.float32),
            positions=(place - start)[:-1].astype(np.int32),
            segment_ids=(document - document[0] + 1)[:-1].astype(np.int32),
        )
        return Batch(*(np.pad(x, (0, self.length - real)) for x in row))

    def documents(self, index: int) -> range:
        """Numbers of the documents in a row."""
        first = index * self.length
        last = min(first + self.length, len(self.store)) - 1
        start, stop = np.searchsorted(self.store.starts, [first, last], side="right")
        return range(int(start) - 1, int(stop))


def empty_row(length: int) -> Batch:
    """A row of padding."""
    zeros = np.zeros(length, np.int32)
    return Batch(
        tokens=zeros,
        targets=zeros,
        loss_mask=zeros.astype(np.float32),
        positions=zeros,
        segment_ids=zeros,
    )


def stack_rows(rows: list[Batch]) -> Batch:
    """A batch of rows."""
    return Batch(*(np.stack(arrays) for arrays in zip(*rows, strict=True)))
