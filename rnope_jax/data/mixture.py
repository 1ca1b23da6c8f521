"""What a stage reads: the rows of one source, or of several, interleaved by their weights.

Which source a row comes from, and which of its rows that is, follows from the number of the row alone. Weights
are shares of tokens, padding not counted, and they are kept all along: after any number of rows, each
source has had its share to within a row or two. Nothing is drawn at random but the order of the rows of a
source, which is another one in each epoch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np

from rnope_jax.config import SourceConfig, StageConfig
from rnope_jax.data.packing import Batch, Documents, PackedRows, empty_batch, pack
from rnope_jax.data.store import Tokens
from rnope_jax.errors import UserError

#: What the shuffle can number.
_MOST_ROWS = 1 << 32

#: Rounds of the shuffle.
_ROUNDS = 4

#: Up to how many rows an epoch's order is kept in memory: the shuffle takes milliseconds a row where there are few.
_FEW_ROWS = 1 << 16


@dataclass(frozen=True)
class Source:
    """One source of a mixture."""

    config: SourceConfig
    rows: PackedRows
    share: Fraction
    """Of the rows of the stage; the shares of all sources add up to one."""


class Mixture:
    """The batches of a stage.

    Args:
      stage: its rows and steps, and the sources with their weights.
      stores: the tokens of each source.
      seed: of the order of the rows, whole numbers; stages with other ones do not repeat each other's order.

    Raises:
      UserError: if a source has too little text for a row.
    """

    def __init__(self, stage: StageConfig, stores: Sequence[Tokens], seed: tuple[int, ...]):
        self.stage, self._seed = stage, seed
        packed = [_rows(stage, source, store) for source, store in zip(stage.sources, stores, strict=True)]
        # A source with more padding needs more rows for the same tokens. In whole numbers: any other
        # machine must come to the same rows.
        wanted = [
            Fraction(str(source.weight)) * len(rows) / rows.tokens
            for source, rows in zip(stage.sources, packed, strict=True)
        ]
        whole = sum(wanted, Fraction(0))
        self.sources = tuple(
            Source(source, rows, part / whole) for source, rows, part in zip(stage.sources, packed, wanted, strict=True)
        )
        # Each source divides what the ones before it have left.
        left = [sum((source.share for source in self.sources[i:]), Fraction(0)) for i in range(len(self.sources))]
        self._of_rest = [source.share / rest for source, rest in zip(self.sources, left, strict=True)]

    @property
    def stores(self) -> tuple[Tokens, ...]:
        """The tokens of each source."""
        return tuple(source.rows.store for source in self.sources)

    def row(self, number: int) -> tuple[int, int]:
        """Row `number` of the stage, counted from 0: its source, and which of its rows it is."""
        if len(self.sources) == 1:
            return 0, self._shuffled(0, number)
        for source, share in enumerate(self._of_rest):
            taken, after = _taken(number, share), _taken(number + 1, share)
            if after > taken:
                return source, self._shuffled(source, taken)
            number -= taken
        raise AssertionError("the last source takes all that is left")

    def rows_of(self, source: int, count: int) -> int:
        """How many of the first `count` rows of the stage come from a source."""
        for share in self._of_rest[:source]:
            count -= _taken(count, share)
        return _taken(count, self._of_rest[source])

    def batch(self, step: int, wanted: Sequence[int] | None = None) -> Batch:
        """Rows of the batch of a step of the stage.

        Args:
          step: counted from 0.
          wanted: which rows of the batch; None takes all.

        Raises:
          UserError: if they cannot be read.
        """
        mine = range(self.stage.batch_size) if wanted is None else wanted
        batch = empty_batch(len(mine), self.stage.sequence_length)
        for place, row in enumerate(mine):
            source, index = self.row(step * self.stage.batch_size + row)
            self.sources[source].rows.fill(index, Batch(*(array[place] for array in batch)))
        return batch

    def lengths(self, step: int) -> np.ndarray:
        """Lengths of the stretches of documents in all rows of the batch of a step, which is not read; [stretches]."""
        rows = (self.row(step * self.stage.batch_size + row) for row in range(self.stage.batch_size))
        return np.concatenate([self.sources[source].rows.pieces(index).size for source, index in rows])

    def documents(self, step: int) -> list[str]:
        """Names of the documents in the batch of a step, in the order of its rows."""
        names: dict[str, None] = {}
        for row in range(self.stage.batch_size):
            source, index = self.row(step * self.stage.batch_size + row)
            rows = self.sources[source].rows
            names.update(dict.fromkeys(rows.store.name(document) for document in rows.documents_of(index)))
        return list(names)

    def fingerprint(self) -> dict[str, Any]:
        """What decides the tokens of every batch, for JSON; how they are packed is in the configuration."""
        return {source.config.name: source.rows.store.fingerprint for source in self.sources}

    def plan(self) -> list[dict[str, Any]]:
        """Of each source, for JSON: how it is packed, its share of the tokens, and how often it will be read."""
        total = self.stage.steps * self.stage.batch_size
        taken = [self.rows_of(number, total) for number in range(len(self.sources))]
        read = [rows * source.rows.tokens / len(source.rows) for rows, source in zip(taken, self.sources, strict=True)]
        return [
            {
                "source": source.config.name,
                "share": tokens / sum(read),
                "documents": len(source.rows.documents),
                "rows": len(source.rows),
                "packing": source.config.packing,
                "padding": source.rows.padding,
                "cut": source.rows.split,
                "read": rows / len(source.rows),
            }
            for source, rows, tokens in zip(self.sources, taken, read, strict=True)
        ]

    def report(self) -> list[str]:
        """A line for each source: how it is packed, and how often it will be read."""
        lines = []
        for row in self.plan():
            of = "" if len(self.sources) == 1 else f"{row['source']}, {row['share']:.2%} of the tokens: "
            lines.append(
                f"stage {self.stage.name}: {of}{row['documents']:,} documents in {row['rows']:,} rows "
                f"({row['packing']}), {row['padding']:.2%} padding, {row['cut']:,} documents are cut; "
                f"read {row['read']:.3g} times"
            )
        return lines

    def _shuffled(self, source: int, count: int) -> int:
        rows = len(self.sources[source].rows)
        epoch, index = divmod(count, rows)
        seed = _seed(*self._seed, source, epoch)
        if rows <= _FEW_ROWS:
            return int(_order(seed, rows)[index])
        # Imported late: Grain brings jax, which processes that only prepare data need not load.
        from grain.experimental import index_shuffle

        return int(index_shuffle(index, max_index=rows - 1, seed=seed, rounds=_ROUNDS))


def _rows(stage: StageConfig, source: SourceConfig, store: Tokens) -> PackedRows:
    documents = Documents(store, source.min_tokens, source.max_tokens)
    if not len(documents):
        most = "" if source.max_tokens is None else f" to {source.max_tokens}"
        raise UserError(
            f"{stage.path()}: no document in {store.where} has {source.min_tokens}{most} tokens, as the source "
            f"{source.name!r} wants; change min_tokens or max_tokens"
        )
    rows = pack(documents, source.packing, stage.sequence_length, source.sequence_length)
    if len(rows) >= _MOST_ROWS:
        raise UserError(f"{stage.path()}: source {source.name!r} has {len(rows):,} rows; at most {_MOST_ROWS:,} work")
    return rows


def _taken(count: int, share: Fraction) -> int:
    """How many of the first `count` rows a share gets: the nearest whole number."""
    return (2 * count * share.numerator + share.denominator) // (2 * share.denominator)


@lru_cache(maxsize=64)
def _order(seed: int, rows: int) -> np.ndarray:
    # NumPy promises that this old generator gives the same numbers for ever.
    return np.random.RandomState(seed).permutation(rows)


@lru_cache(maxsize=64)
def _seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
