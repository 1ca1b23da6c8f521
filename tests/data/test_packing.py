"""Rows of packed documents, against a plain walk over the documents."""

from collections import Counter

import numpy as np
import pytest

from rnope_jax.data.packing import PackedRows, empty_row, stack_rows
from rnope_jax.data.sources import Document
from rnope_jax.errors import UserError
from tests.data.corpora import make_store

LENGTH = 16


@pytest.fixture(scope="module")
def token_store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("packing"))


def document_of(store) -> np.ndarray:
    """Document number of every token."""
    return np.repeat(np.arange(len(store.starts)), np.diff([*store.starts, len(store)]))


@pytest.mark.parametrize("length", [1, 7, LENGTH, 100])
def test_every_token_but_the_first_of_a_document_is_predicted_once(token_store, length):
    rows = PackedRows(token_store, length, pad_last=True)
    predicted = Counter()
    for i in range(len(rows)):
        row = rows[i]
        for place in np.flatnonzero(row.loss_mask):
            target = i * length + int(place) + 1
            predicted[target] += 1
            assert row.targets[place] == token_store.tokens[target]
    expected = set(range(len(token_store))) - set(token_store.starts.tolist())
    assert predicted == Counter(expected)


def test_targets_are_the_next_tokens(token_store):
    rows = PackedRows(token_store, LENGTH)
    for i in range(len(rows)):
        first = i * LENGTH
        np.testing.assert_array_equal(rows[i].tokens, token_store.tokens[first : first + LENGTH])
        np.testing.assert_array_equal(rows[i].targets, token_store.tokens[first + 1 : first + LENGTH + 1])


def test_positions_and_segments_restart_exactly_at_documents(token_store):
    rows, numbers = PackedRows(token_store, LENGTH), document_of(token_store)
    assert any(len(set(numbers[i * LENGTH : (i + 1) * LENGTH])) > 1 for i in range(len(rows)))
    for i in range(len(rows)):
        row, within = rows[i], numbers[i * LENGTH : (i + 1) * LENGTH]
        segment, position = 1, 0
        for place in range(LENGTH):
            if place and within[place] != within[place - 1]:
                segment, position = segment + 1, 0
            assert (row.segment_ids[place], row.positions[place]) == (segment, position)
            position += 1


def test_the_loss_leaves_out_targets_of_another_document(token_store):
    rows, numbers = PackedRows(token_store, LENGTH), document_of(token_store)
    for i in range(len(rows)):
        places = i * LENGTH + np.arange(LENGTH)
        np.testing.assert_array_equal(rows[i].loss_mask, numbers[places] == numbers[places + 1])


def test_padding_of_the_last_row_is_empty(token_store):
    predicted = len(token_store) - 1
    length = next(n for n in range(LENGTH, 100) if predicted % n)
    rows = PackedRows(token_store, length, pad_last=True)
    row, real = rows[len(rows) - 1], predicted % length
    assert row.segment_ids[:real].all()
    for name in ("tokens", "targets", "loss_mask", "positions", "segment_ids"):
        assert not getattr(row, name)[real:].any()
        assert getattr(row, name).shape == (length,)
    assert len(PackedRows(token_store, length)) == len(rows) - 1  # training leaves the short row out


def test_documents_are_those_whose_tokens_are_read(token_store):
    numbers = document_of(token_store)
    for rows in (PackedRows(token_store, LENGTH), PackedRows(token_store, LENGTH, pad_last=True)):
        for i in range(len(rows)):
            assert set(rows.documents(i)) == set(numbers[i * LENGTH : (i + 1) * LENGTH].tolist())


def test_a_document_that_ends_with_a_row_does_not_reach_into_the_next(tmp_path):
    store = make_store(tmp_path, [Document("a", "river" * 8), Document("b", "stone" * 8)])
    length = int(store.starts[1])  # the row ends where the first document does
    row = PackedRows(store, length)[0]
    assert row.segment_ids.tolist() == [1] * length
    assert row.loss_mask.tolist() == [1] * (length - 1) + [0]
    assert list(PackedRows(store, length).documents(0)) == [0]


def test_types_are_those_of_the_devices(token_store):
    row = PackedRows(token_store, LENGTH)[0]
    types = {name: x.dtype.name for name, x in row._asdict().items()}
    assert types == {
        "tokens": "int32",
        "targets": "int32",
        "loss_mask": "float32",
        "positions": "int32",
        "segment_ids": "int32",
    }
    batch = stack_rows([row, empty_row(LENGTH)])
    assert {name: (x.shape, x.dtype.name) for name, x in batch._asdict().items()} == {
        name: ((2, LENGTH), kind) for name, kind in types.items()
    }
    assert not any(x[1].any() for x in batch)


def test_a_corpus_shorter_than_a_row_is_refused(token_store):
    with pytest.raises(UserError, match=r"has \d+ tokens, too few for one row of 100000"):
        PackedRows(token_store, 100_000)
