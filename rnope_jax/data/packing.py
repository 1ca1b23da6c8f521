"""Rows of packed documents, cut from tokens on disk.

A row consists of pieces: stretches of documents that do not see each other. Two ways to choose them
stand here; how a row is filled with its pieces is the same for both.
"""

from abc import ABC, abstractmethod
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from rnope_jax.data.best_fit import best_fit
from rnope_jax.data.store import Tokens
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


def empty_batch(*shape: int) -> Batch:
    """Rows of padding."""
    kinds = (np.int32, np.int32, np.float32, np.int32, np.int32)
    return Batch(*(np.zeros(shape, kind) for kind in kinds))


class Pieces(NamedTuple):
    """What a row consists of, one after the other; every array is [pieces]."""

    first: np.ndarray
    """First token of each, in the store."""
    size: np.ndarray
    """Inputs of each."""
    document: np.ndarray
    """Which one it belongs to, in the store."""
    continues: np.ndarray
    """Whether the token after its last input belongs to the same document, and so is predicted."""


class Documents:
    """The documents of a store that have some lengths.

    Args:
      store: where they lie.
      min_tokens: shorter ones are left out; where less than two are, nothing can be predicted.
      max_tokens: longer ones are left out.
    """

    def __init__(self, store: Tokens, min_tokens: int = 2, max_tokens: int | None = None):
        self.store = store
        lengths = np.diff(store.starts, append=len(store))
        keep = lengths >= min_tokens
        if max_tokens is not None:
            keep &= lengths <= max_tokens
        #: Where each starts in the store; where in a row of only these; its number (None: all are kept).
        self.first, self.at, self.number = store.starts, store.starts, None
        self.tokens = len(store)
        if not keep.all():
            self.number = np.flatnonzero(keep)
            self.first, lengths = store.starts[self.number], lengths[self.number]
            self.at = np.cumsum(lengths) - lengths
            self.tokens = int(lengths.sum())

    def __len__(self) -> int:
        return len(self.first)

    def numbers(self, places: np.ndarray) -> np.ndarray:
        """What number the documents at these places of the selection have in the store."""
        return places if self.number is None else self.number[places]


class PackedRows(ABC):
    """Rows of `length` tokens.

    Args:
      documents: what they are made of.
      length: tokens in a row.
      sequence: most tokens that see each other; None takes `length`, of which it is a divisor.
    """

    def __init__(self, documents: Documents, length: int, sequence: int | None = None):
        self.documents, self.store = documents, documents.store
        self.length, self.sequence = length, sequence or length
        self._counting = np.arange(length + 1, dtype=np.int32)

    @abstractmethod
    def __len__(self) -> int:
        """Number of rows."""

    @abstractmethod
    def pieces(self, index: int) -> Pieces:
        """What a row consists of."""

    @property
    @abstractmethod
    def tokens(self) -> int:
        """Inputs in all rows, padding not counted."""

    @property
    @abstractmethod
    def split(self) -> int:
        """Documents that do not fit into a sequence, or that the end of one cuts."""

    @property
    def padding(self) -> float:
        """Share of padding in all rows."""
        return 1 - self.tokens / (len(self) * self.length)

    def __getitem__(self, index: int) -> Batch:
        row = empty_batch(self.length)
        self.fill(index, row)
        return row

    def fill(self, index: int, row: Batch) -> None:
        """Writes a row into zeros.

        Raises:
          UserError: if the tokens cannot be read.
        """
        first, size, _, continues = self.pieces(index)
        stops = size.cumsum()
        used = int(stops[-1])
        row.loss_mask[:used] = 1
        # Pieces that follow each other in the store are read together.
        breaks = (first[1:] != first[:-1] + size[:-1]).nonzero()[0]
        begin = 0
        for last in [*breaks.tolist(), len(first) - 1]:
            stop = int(stops[last])
            source = int(first[last]) + int(size[last]) - (stop - begin)
            self._read(source, begin, stop, row)
            begin = stop
        row.loss_mask[stops[~continues] - 1] = 0
        row.positions[:used] = self._counting[:used]
        row.segment_ids[:used] = 1
        if len(size) > 1:
            row.positions[:used] -= (stops - size).astype(np.int32).repeat(size)
            row.segment_ids[:used] = self._counting[1 : len(size) + 1].repeat(size)

    def _read(self, source: int, begin: int, stop: int, row: Batch) -> None:
        """Fills places `begin` to `stop` of a row with what stands at `source` in the store."""
        size = stop - begin
        window = self.store.read(source, min(source + size + 1, len(self.store)))
        row.tokens[begin:stop] = window[:size]
        # The last token of all has none that follows; its target does not count.
        row.targets[begin : begin + len(window) - 1] = window[1:]
        counted = self.store.counted(source + 1, source + len(window))
        if counted is not None:
            row.loss_mask[begin : begin + len(counted)] = counted

    def documents_of(self, index: int) -> list[int]:
        """Numbers of the documents in a row."""
        return list(dict.fromkeys(self.pieces(index).document.tolist()))


class ConcatRows(PackedRows):
    """The documents one after the other, cut into rows.

    Row i predicts tokens i * length + 1 to (i + 1) * length; what is left after the last whole row is not
    used. With `pad_last` a shorter last row is filled up with padding, so that every token but the first of a
    document is predicted once.
    """

    def __init__(self, documents: Documents, length: int, sequence: int | None = None, *, pad_last: bool = False):
        super().__init__(documents, length, sequence)
        predicted = documents.tokens - 1
        self._rows = -(-predicted // length) if pad_last else predicted // length
        self._used = min(max(predicted, 0), self._rows * length)

    def __len__(self) -> int:
        return self._rows

    @property
    def tokens(self) -> int:
        return self._used

    @cached_property
    def split(self) -> int:
        at, ends = self.documents.at, np.append(self.documents.at[1:], self.documents.tokens)
        # The last token of a document is no input that matters, so it may stand beyond the cut.
        return int(np.count_nonzero(at // self.sequence != np.maximum(ends - 2, at) // self.sequence))

    def pieces(self, index: int) -> Pieces:
        at, total = self.documents.at, self.documents.tokens
        begin = index * self.length
        stop = min(begin + self.length, total - 1)
        low = int(at.searchsorted(begin, side="right")) - 1
        high = int(at.searchsorted(stop, side="left"))
        cuts = at[low + 1 : high]
        place = np.arange(low, high)
        ends = at[low + 1 : high + 1]
        if high == len(at):
            ends = np.append(ends, total)
        if self.sequence < self.length:
            cuts = np.union1d(cuts, np.arange(begin + self.sequence, stop, self.sequence))
        bounds = np.concatenate(([begin], cuts, [stop]))
        starts = bounds[:-1]
        if self.sequence < self.length:
            place = at.searchsorted(starts, side="right") - 1
            ends = ends[place - low]
        first = starts
        if self.documents.number is not None:
            first = self.documents.first[place] + (starts - at[place])
        return Pieces(first, bounds[1:] - starts, self.documents.numbers(place), bounds[1:] < ends)


class BestFitRows(PackedRows):
    """Rows that begin no document in its middle: each is whole in a row, unless it is longer than a sequence.

    A document of n tokens takes n - 1 places (its last token is predicted, not read). One that is longer
    than a sequence is cut into pieces of that length and a shorter last one. Pieces are put into rows by
    `best_fit`.
    """

    def __init__(self, documents: Documents, length: int, sequence: int | None = None):
        super().__init__(documents, length, sequence)
        inputs = np.diff(documents.at, append=documents.tokens) - 1
        pieces = -(-inputs // self.sequence)
        self._place = np.repeat(np.arange(len(inputs), dtype=np.int32 if len(inputs) < 1 << 31 else np.int64), pieces)
        offset = (np.arange(len(self._place)) - np.repeat(np.cumsum(pieces) - pieces, pieces)) * self.sequence
        size = np.minimum(inputs[self._place] - offset, self.sequence)
        row_of, rows = best_fit(size, length)
        # Within a row in the order of the store.
        order = np.argsort(row_of, kind="stable")
        self._bounds = np.searchsorted(row_of[order], np.arange(rows + 1))
        self._place, self._size = self._place[order], size[order].astype(np.int32)
        self._first = documents.first[self._place] + offset[order]
        self._tokens, self._split = int(inputs.sum()), int(np.count_nonzero(pieces > 1))

    def __len__(self) -> int:
        return len(self._bounds) - 1

    @property
    def tokens(self) -> int:
        return self._tokens

    @property
    def split(self) -> int:
        return self._split

    def pieces(self, index: int) -> Pieces:
        part = slice(int(self._bounds[index]), int(self._bounds[index + 1]))
        size = self._size[part]
        return Pieces(self._first[part], size, self.documents.numbers(self._place[part]), np.ones(len(size), bool))


def pack(documents: Documents, packing: str, length: int, sequence: int | None = None) -> PackedRows:
    """The rows of documents.

    Args:
      documents: what they are made of.
      packing: "concat" or "best_fit".
      length: tokens in a row.
      sequence: most tokens that see each other; None takes `length`.

    Raises:
      UserError: if there is too little text for a row.
    """
    kind = {"concat": ConcatRows, "best_fit": BestFitRows}[packing]
    rows = kind(documents, length, sequence)
    if len(rows) < 1:
        raise too_short(documents, length)
    return rows


def too_short(documents: Documents, length: int) -> UserError:
    """The error of documents that fill no row."""
    store, whole = documents.store, documents.number is None
    have = f"{documents.tokens} tokens" + ("" if whole else f" in {len(documents)} documents of the lengths asked for")
    return UserError(
        f"the corpus in {store.where} has {have}, too few for one row of {length}: "
        "give more text in data.corpus or a shorter sequence_length"
    )
