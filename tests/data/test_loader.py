"""Batches are a function of seed, step and row."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from rnope_jax.config import ScheduleConfig, StageConfig
from rnope_jax.data import documents_of_step, held_out_batches, training_batches
from rnope_jax.data.packing import Batch, PackedRows
from tests.data.corpora import make_store

LENGTH = 8


def stage(steps: int = 12, batch_size: int = 4) -> StageConfig:
    schedule = ScheduleConfig(peak=1e-3)
    return StageConfig(name="s", steps=steps, sequence_length=LENGTH, batch_size=batch_size, schedule=schedule)


@pytest.fixture(scope="module")
def token_store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("loader"), count=10)


def batches(store, stage_, seed=0, start=0) -> list[Batch]:
    return list(training_batches(store, stage_, seed, start))


def assert_same(actual: Batch, expected: Batch) -> None:
    for name, value in expected._asdict().items():
        np.testing.assert_array_equal(getattr(actual, name), value, err_msg=name)


def rows_of(store, batch: Batch) -> list[int]:
    """Which row of the store each row of a batch is."""
    rows = PackedRows(store, LENGTH)
    known = {tuple(rows[i].tokens) + tuple(rows[i].positions): i for i in range(len(rows))}
    assert len(known) == len(rows)
    return [known[tuple(t) + tuple(p)] for t, p in zip(batch.tokens, batch.positions, strict=True)]


@pytest.mark.parametrize("start", [1, 5, 11])
def test_resuming_at_any_step_gives_the_batches_of_the_unbroken_run(token_store, start):
    whole = batches(token_store, stage())
    resumed = batches(token_store, stage(), start=start)
    assert len(whole) == 12
    assert len(resumed) == 12 - start
    for actual, expected in zip(resumed, whole[start:], strict=True):
        assert_same(actual, expected)


def test_a_longer_stage_begins_with_the_same_batches(token_store):
    for actual, expected in zip(batches(token_store, stage(12)), batches(token_store, stage(5)), strict=False):
        assert_same(actual, expected)


def test_each_epoch_reads_every_row_once_in_an_order_of_its_own(token_store):
    count = len(PackedRows(token_store, LENGTH))
    steps = -(-3 * count // 4)
    order = [row for batch in batches(token_store, stage(steps)) for row in rows_of(token_store, batch)]
    epochs = [tuple(order[i * count : (i + 1) * count]) for i in range(3)]
    for epoch in epochs:
        assert Counter(epoch) == Counter(range(count))
    assert len(set(epochs)) == 3
    assert tuple(range(count)) not in epochs


def test_seeds_give_different_orders(token_store):
    first, second = (rows_of(token_store, batches(token_store, stage(), seed)[0]) for seed in (0, 1))
    assert first != second


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_the_rows_of_all_processes_make_up_the_global_batch(token_store, processes):
    whole = batches(token_store, stage(3))
    held_out = list(held_out_batches(token_store, LENGTH, 4))
    parts, held_out_parts = [], []
    for rows in np.split(np.arange(4), processes):
        parts.append(list(training_batches(token_store, stage(3), 0, wanted=rows)))
        held_out_parts.append(list(held_out_batches(token_store, LENGTH, 4, wanted=rows)))
    for expected, made in ((whole, parts), (held_out, held_out_parts)):
        for step, batch in enumerate(expected):
            joined = [np.concatenate(arrays) for arrays in zip(*(part[step] for part in made), strict=True)]
            assert_same(Batch(*joined), batch)


def test_the_documents_of_a_step_are_those_of_its_rows(token_store):
    rows, names = PackedRows(token_store, LENGTH), token_store.names()
    for step, batch in enumerate(batches(token_store, stage(4), seed=3)):
        numbers = [n for row in rows_of(token_store, batch) for n in rows.documents(row)]
        assert documents_of_step(token_store, stage(4), 3, step) == list(dict.fromkeys(names[n] for n in numbers))


def test_held_out_batches_read_every_row_once_and_pad_the_last(token_store):
    count = len(PackedRows(token_store, LENGTH, pad_last=True))
    size = next(n for n in range(3, 9) if count % n)
    found = list(held_out_batches(token_store, LENGTH, size))
    assert all(batch.tokens.shape == (size, LENGTH) for batch in found)
    weight = sum(batch.loss_mask.sum() for batch in found)
    assert weight == token_store.index.tokens - token_store.index.documents
    padding = found[-1].segment_ids[count % size :]
    assert not padding.any()


def test_a_part_of_the_held_out_text_is_spread_over_it(token_store):
    count = len(PackedRows(token_store, LENGTH, pad_last=True))
    tokens = np.concatenate([batch.tokens for batch in held_out_batches(token_store, LENGTH, 3, rows=5)])[:5]
    whole = np.concatenate([batch.tokens for batch in held_out_batches(token_store, LENGTH, 1)])
    chosen = [int(np.flatnonzero((whole == row).all(axis=1))[0]) for row in tokens]
    assert (chosen[0], chosen[-1]) == (0, count - 1)
    gaps = np.diff(chosen)
    assert gaps.max() - gaps.min() <= 1


def test_row_lengths_of_stages_do_not_disturb_each_other(token_store):
    longer = replace(stage(3), sequence_length=2 * LENGTH)
    assert batches(token_store, longer)[0].tokens.shape == (4, 2 * LENGTH)
