"""Batches in order, read ahead; what ends the reading is told."""

import errno
import threading
import time

import numpy as np
import pytest

from rnope_jax.config import ScheduleConfig, SourceConfig, StageConfig
from rnope_jax.data import DataError, Mixture, held_out_batches, training_batches
from rnope_jax.data.loader import ReadAhead
from rnope_jax.data.packing import Batch, ConcatRows, Documents, empty_batch
from rnope_jax.errors import UserError
from tests.data.corpora import make_store
from tests.data.tokens import Memory, uneven

LENGTH = 8

SOURCES = {
    "one corpus": (),
    "best fit": (SourceConfig(name="a", packing="best_fit"),),
    "mixture": (
        SourceConfig(name="a", weight=0.1, packing="best_fit"),
        SourceConfig(name="b", weight=0.9, sequence_length=4),
    ),
}


@pytest.fixture(params=SOURCES, ids=lambda name: name)
def mixture(request) -> Mixture:
    stage = StageConfig(
        name="s",
        steps=40,
        sequence_length=LENGTH,
        batch_size=4,
        schedule=ScheduleConfig(peak=1e-3),
        mixture=SOURCES[request.param],
    )
    return Mixture(stage, [Memory.of(uneven(20, seed)) for seed in range(len(stage.sources))], (3, 0))


def assert_same(actual: Batch, expected: Batch) -> None:
    for name, value in expected._asdict().items():
        np.testing.assert_array_equal(getattr(actual, name), value, err_msg=name)


@pytest.mark.parametrize("start", [0, 1, 17, 39])
def test_resuming_at_any_step_gives_the_batches_of_the_unbroken_run(mixture, start):
    """Also past the ends of epochs: the sources are read several times."""
    assert 2 * len(mixture.sources[-1].rows) < 40 * 4
    whole = [mixture.batch(step) for step in range(40)]
    resumed = list(training_batches(mixture, start))
    assert len(resumed) == 40 - start
    for actual, expected in zip(resumed, whole[start:], strict=True):
        assert_same(actual, expected)


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_the_rows_of_all_processes_make_up_the_global_batch(mixture, processes):
    whole = list(training_batches(mixture))
    parts = [list(training_batches(mixture, wanted=rows.tolist())) for rows in np.split(np.arange(4), processes)]
    for step, batch in enumerate(whole):
        joined = [np.concatenate(arrays) for arrays in zip(*(part[step] for part in parts), strict=True)]
        assert_same(Batch(*joined), batch)


def test_batches_are_made_before_they_are_asked_for_but_not_all():
    made = []

    def batches():
        for number in range(100):
            made.append(number)
            yield empty_batch(1, 1)

    ahead = ReadAhead(batches())
    next(ahead)
    deadline = time.monotonic() + 240
    while len(made) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert 5 <= len(made) < 20
    ahead.close()


@pytest.mark.parametrize(
    ("error", "expected", "message"),
    [
        (OSError(errno.EIO, "Input/output error", "/mount/tokens.bin"), DataError, "/mount/tokens.bin: Input/output"),
        (FileNotFoundError(errno.ENOENT, "No such file", "x"), DataError, "the data cannot be read any more: x: No"),
        (UserError("tokens.bin ends early"), DataError, "tokens.bin ends early"),
        (MemoryError("no room"), MemoryError, "no room"),
        (KeyError("a mistake of ours"), KeyError, "a mistake"),
    ],
)
def test_an_error_of_the_thread_reaches_whoever_waits(error, expected, message):
    def batches():
        yield empty_batch(1, 1)
        raise error

    ahead = ReadAhead(batches())
    next(ahead)
    with pytest.raises(expected, match=message):
        next(ahead)


def test_a_thread_that_ends_without_a_word_is_noticed(monkeypatch):
    monkeypatch.setattr(ReadAhead, "_put", lambda self, made: False)
    ahead = ReadAhead(iter([empty_batch(1, 1)]), limit=60)
    with pytest.raises(DataError, match="has ended without a word"):
        next(ahead)


def test_files_that_do_not_answer_are_not_waited_for_for_ever():
    answer = threading.Event()

    def batches():
        answer.wait()
        yield empty_batch(1, 1)

    ahead = ReadAhead(batches(), limit=0.2)
    with pytest.raises(DataError, match="no batch has come for 0 s: the data files do not answer"):
        next(ahead)
    # A stop is not kept waiting either.
    assert next(ReadAhead(batches(), stopping=lambda: True), None) is None
    answer.set()


@pytest.fixture(scope="module")
def token_store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("loader"), count=10)


def held_out_rows(store) -> ConcatRows:
    return ConcatRows(Documents(store), LENGTH, pad_last=True)


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_held_out_rows_of_all_processes_make_up_the_global_batch(token_store, processes):
    whole = list(held_out_batches(token_store, LENGTH, 4))
    parts = [list(held_out_batches(token_store, LENGTH, 4, wanted=rows)) for rows in np.split(np.arange(4), processes)]
    for step, batch in enumerate(whole):
        joined = [np.concatenate(arrays) for arrays in zip(*(part[step] for part in parts), strict=True)]
        assert_same(Batch(*joined), batch)


def test_held_out_batches_read_every_row_once_and_pad_the_last(token_store):
    count = len(held_out_rows(token_store))
    size = next(n for n in range(3, 9) if count % n)
    found = list(held_out_batches(token_store, LENGTH, size))
    assert all(batch.tokens.shape == (size, LENGTH) for batch in found)
    weight = sum(batch.loss_mask.sum() for batch in found)
    assert weight == token_store.index.tokens - token_store.index.documents
    padding = found[-1].segment_ids[count % size :]
    assert not padding.any()


def test_a_part_of_the_held_out_text_is_spread_over_it(token_store):
    count = len(held_out_rows(token_store))
    tokens = np.concatenate([batch.tokens for batch in held_out_batches(token_store, LENGTH, 3, rows=5)])[:5]
    whole = np.concatenate([batch.tokens for batch in held_out_batches(token_store, LENGTH, 1)])
    chosen = [int(np.flatnonzero((whole == row).all(axis=1))[0]) for row in tokens]
    assert (chosen[0], chosen[-1]) == (0, count - 1)
    gaps = np.diff(chosen)
    assert gaps.max() - gaps.min() <= 1
