"""Batches as a pure function of (seed, step, row), read ahead by Grain.

Nothing about the position in the data is stored but the step: the loader of a resumed run starts
there and gives the very batches that the unbroken run would have had.
"""

from collections.abc import Iterator, Sequence

import grain
import numpy as np

from rnope_jax.config import StageConfig
from rnope_jax.data.packing import Batch, PackedRows, empty_row, stack_rows
from rnope_jax.data.store import TokenStore

#: One thread reads ahead; more only contend for the interpreter (windows are cut from mapped memory).
_READ = grain.ReadOptions(num_threads=1, prefetch_buffer_size=8)


def training_batches(
    store: TokenStore, stage: StageConfig, seed: int, start: int = 0, wanted: Sequence[int] | None = None
) -> Iterator[Batch]:
    """The batches of a stage, from its step `start` to its end.

    Args:
      store: the tokens.
      stage: its length, rows and steps.
      seed: of the order.
      start: first step.
      wanted: which rows of each batch; None takes all.
    """
    rows, order = PackedRows(store, stage.sequence_length), _order(store, stage, seed)
    mine = range(stage.batch_size) if wanted is None else wanted

    def batch(step: int) -> Batch:
        return stack_rows([rows[order[step * stage.batch_size + row]] for row in mine])

    steps = grain.MapDataset.range(start, stage.steps).map(batch)
    return iter(steps.to_iter_dataset(_READ))


def documents_of_step(store: TokenStore, stage: StageConfig, seed: int, step: int) -> list[str]:
    """Names of the documents in the global batch of a step, in the order of its rows."""
    rows, order = PackedRows(store, stage.sequence_length), _order(store, stage, seed)
    names = store.names()
    found = [rows.documents(order[step * stage.batch_size + row]) for row in range(stage.batch_size)]
    return list(dict.fromkeys(names[number] for numbers in found for number in numbers))


def _order(store: TokenStore, stage: StageConfig, seed: int) -> grain.MapDataset:
    """Row r of step s of a stage is row `order[s * batch_size + r]` of the store; a new order each epoch."""
    rows = PackedRows(store, stage.sequence_length)
    return grain.MapDataset.range(len(rows)).shuffle(seed=seed).repeat()


def held_out_batches(
    store: TokenStore, length: int, batch_size: int, rows: int | None = None, wanted: Sequence[int] | None = None
) -> Iterator[Batch]:
    """The held-out text in order, padded to whole batches.

    Args:
      store: held-out tokens.
      length: tokens per row.
      batch_size: rows per global batch.
      rows: how many rows to read, spread evenly over the text; None reads every token.
      wanted: which rows of each batch; None takes all.
    """
    source = PackedRows(store, length, pad_last=True)
    chosen = np.arange(len(source))
    if rows is not None and rows < len(source):
        chosen = np.linspace(0, len(source) - 1, rows).round().astype(int)
    for first in range(0, len(chosen), batch_size):
        group = chosen[first : first + batch_size]
        batch = [source[int(i)] for i in group]
        batch += [empty_row(length)] * (batch_size - len(batch))
        yield stack_rows([batch[row] for row in (range(batch_size) if wanted is None else wanted)])
