"""Packed rows against a plain walk over the documents."""

from collections import Counter

import numpy as np
import pytest

from rnope_jax.data.packing import BestFitRows, ConcatRows, Documents, empty_batch, pack
from rnope_jax.errors import UserError
from tests.data.tokens import Memory, uneven

LENGTH = 16

#: Packing, sequence, longest document that is taken, shortest.
WAYS = [
    ("concat", None, None, 2),
    ("concat", 4, None, 2),
    ("concat", None, 20, 2),
    ("concat", 8, 30, 5),
    ("best_fit", None, None, 2),
    ("best_fit", 4, None, 2),
    ("best_fit", None, 20, 2),
    ("best_fit", 8, 30, 5),
]


def make(way, store=None, **changes):
    packing, sequence, most, least = way
    store = store or Memory.of(uneven(60))
    kind = {"concat": ConcatRows, "best_fit": BestFitRows}[packing]
    return store, kind(Documents(store, least, most), LENGTH, sequence, **changes)


def document_of(store) -> np.ndarray:
    """Document number of every token."""
    return np.repeat(np.arange(len(store.starts)), store.lengths)


def kept(store, way) -> set[int]:
    _, _, most, least = way
    return {n for n, size in enumerate(store.lengths) if least <= size <= (most or 10**9)}


@pytest.mark.parametrize("way", WAYS)
def test_rows_hold_stretches_of_documents(way):
    """Every token of a memory store is another number, so a row tells where it comes from."""
    store, rows = make(way)
    numbers, sequence = document_of(store), way[1] or LENGTH
    for i in range(len(rows)):
        row = rows[i]
        real = row.segment_ids > 0
        used = int(real.sum())
        assert real[:used].all()
        place = row.tokens[:used] - 1  # in the store
        segment = row.segment_ids[:used]
        assert set(np.diff(segment)) <= {0, 1}
        assert segment[0] == 1
        for number in range(1, segment[-1] + 1):
            mine = place[segment == number]
            assert np.array_equal(mine, np.arange(mine[0], mine[0] + len(mine)))
            assert len(set(numbers[mine])) == 1
            assert numbers[mine[0]] in kept(store, way)
            assert len(mine) <= sequence
            np.testing.assert_array_equal(row.positions[:used][segment == number], np.arange(len(mine)))
        # A target counts where it is the next token of the same document.
        following = np.append(numbers, -1)[place + 1]
        np.testing.assert_array_equal(row.loss_mask[:used], following == numbers[place])
        counts = row.loss_mask[:used] > 0
        np.testing.assert_array_equal(row.targets[:used][counts], store.tokens[place[counts] + 1])
        assert not any(x[used:].any() for x in row)
        assert rows.documents_of(i) == list(dict.fromkeys(numbers[place].tolist()))


@pytest.mark.parametrize("way", WAYS)
def test_every_token_but_the_first_of_a_document_is_predicted_once(way):
    store, rows = make(way, **({"pad_last": True} if way[0] == "concat" else {}))
    predicted = Counter()
    for i in range(len(rows)):
        row = rows[i]
        predicted.update((row.targets[row.loss_mask > 0] - 1).tolist())
    numbers = document_of(store)
    wanted = {t for t in range(len(store)) if numbers[t] in kept(store, way)} - set(store.starts.tolist())
    assert predicted == Counter(wanted)


def test_plain_rows_are_the_text_as_it_stands():
    store, rows = make(WAYS[0])
    assert (store.lengths >= 2).sum() < len(store.lengths)  # some are left out
    store = Memory.of([size for size in uneven(60) if size > 1])
    _, rows = make(WAYS[0], store)
    assert len(rows) == (len(store) - 1) // LENGTH
    for i in range(len(rows)):
        first = i * LENGTH
        np.testing.assert_array_equal(rows[i].tokens, store.tokens[first : first + LENGTH])
        np.testing.assert_array_equal(rows[i].targets, store.tokens[first + 1 : first + LENGTH + 1])


def test_sequences_of_a_plain_row_do_not_see_each_other():
    store = Memory.of([100])
    _, rows = make(WAYS[1], store)
    assert rows[0].segment_ids.tolist() == [1] * 4 + [2] * 4 + [3] * 4 + [4] * 4
    assert rows[0].positions.tolist() == [0, 1, 2, 3] * 4
    assert rows[0].loss_mask.all()  # the text goes on, though it is not seen


def test_best_fit_cuts_only_what_is_longer_than_a_sequence():
    for way in WAYS[4:]:
        store, rows = make(way)
        sequence = way[1] or LENGTH
        begun = Counter(rows.documents_of(i)[j] for i in range(len(rows)) for j in range(len(rows.documents_of(i))))
        for number in kept(store, way):
            if store.lengths[number] - 1 <= sequence:
                assert begun[number] == 1
        assert rows.split == sum(store.lengths[n] - 1 > sequence for n in kept(store, way))


@pytest.mark.parametrize("way", WAYS)
def test_padding_and_tokens_are_those_of_the_rows(way):
    _, rows = make(way)
    real = sum(int((rows[i].segment_ids > 0).sum()) for i in range(len(rows)))
    assert rows.tokens == real
    assert rows.padding == pytest.approx(1 - real / (len(rows) * LENGTH))
    if way[0] == "concat":
        assert rows.padding == 0


def test_concat_counts_the_documents_that_it_cuts():
    _, rows = make(WAYS[0], Memory.of([16, 5, 20, 7]))  # inputs that matter: 0-14, 16-19, 21-39, 41-46
    assert rows.split == 1
    _, rows = make(WAYS[0], Memory.of([15, 5, 10, 7]))  # 0-13, 15-18 is cut at 16, 20-28, 30-35 at 32
    assert rows.split == 2


@pytest.mark.parametrize("way", WAYS)
def test_prompts_are_read_and_not_learned(way):
    store = Memory.of(uneven(60))
    store.mask = np.random.default_rng(5).random(len(store)) < 0.5
    _, rows = make(way, store)
    store.mask, mask = None, store.mask
    _, whole = make(way, store)
    for i in range(len(rows)):
        store.mask, expected = None, whole[i]
        store.mask = mask
        row = rows[i]
        for name in ("tokens", "targets", "positions", "segment_ids"):
            np.testing.assert_array_equal(getattr(row, name), getattr(expected, name))
        answers = mask[row.targets - 1] & (expected.loss_mask > 0)
        np.testing.assert_array_equal(row.loss_mask > 0, answers)


def test_padding_of_the_last_row_is_empty():
    store = Memory.of(uneven(60))
    store, rows = make(WAYS[0], store, pad_last=True)
    used = rows.tokens % LENGTH
    assert used
    row = rows[len(rows) - 1]
    assert row.segment_ids[:used].all()
    assert not any(x[used:].any() for x in row)
    assert len(make(WAYS[0], store)[1]) == len(rows) - 1  # training leaves the short row out


def test_empty_documents_are_passed_over():
    store = Memory.of([5, 0, 0, 9, 1, 30, 0])
    for way in WAYS:
        _, rows = make(way, store)
        assert {n for i in range(len(rows)) for n in rows.documents_of(i)} <= {0, 3, 5}


def test_types_are_those_of_the_devices():
    _, rows = make(WAYS[4])
    types = {name: x.dtype.name for name, x in rows[0]._asdict().items()}
    assert types == {
        "tokens": "int32",
        "targets": "int32",
        "loss_mask": "float32",
        "positions": "int32",
        "segment_ids": "int32",
    }
    assert {name: x.dtype.name for name, x in empty_batch(2, 3)._asdict().items()} == types


def test_a_corpus_shorter_than_a_row_is_refused():
    with pytest.raises(UserError, match=r"memory has 30 tokens, too few for one row of 100"):
        pack(Documents(Memory.of([10, 20])), "concat", 100)
    with pytest.raises(UserError, match=r"10 tokens in 1 documents of the lengths asked for, too few"):
        pack(Documents(Memory.of([10, 20]), 2, 15), "concat", 100)


def test_memory_grows_with_numbers_not_with_objects():
    """A million documents: index arrays of a few bytes each."""
    lengths = np.random.default_rng(0).integers(2, 900, 1_000_000)
    starts = np.cumsum(lengths) - lengths
    store = Memory(starts, np.broadcast_to(np.int32(7), int(lengths.sum())))
    rows = pack(Documents(store), "best_fit", 4096)
    arrays = [value for value in vars(rows).values() if isinstance(value, np.ndarray)]
    assert sum(array.nbytes for array in arrays) < 20 * len(lengths)
    assert rows.padding < 0.001
    assert rows[5].segment_ids.max() > 1
