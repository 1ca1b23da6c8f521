"""Tokens made of other tokens, and which documents are held out."""

import numpy as np
import pytest

from rnope_jax.data import held_out
from rnope_jax.data.held_out import split
from rnope_jax.data.store import predicted
from rnope_jax.data.views import Joined, joined
from rnope_jax.errors import UserError
from tests.data.corpora import small_tokenizer
from tests.data.tokens import Memory, uneven

RNG = np.random.default_rng(0)


def memory(lengths, seed=0, masked=False, label="memory"):
    made = Memory.of(lengths, vocab=1000, seed=seed, label=label)
    if masked:
        made.mask = np.random.default_rng(seed).random(len(made)) < 0.5
    return made


def whole(tokens):
    """Everything that tokens offer, read at once."""
    flags = tokens.counted(0, len(tokens))
    names = [tokens.name(i) for i in range(len(tokens.starts))]
    return tokens.read(0, len(tokens)), flags, np.asarray(tokens.starts), names


def check_windows(tokens):
    """Any window holds what the whole holds there."""
    everything, flags, _, _ = whole(tokens)
    for _ in range(60):
        first, stop = np.sort(RNG.integers(0, len(tokens) + 1, 2))
        if first < stop:
            np.testing.assert_array_equal(tokens.read(int(first), int(stop)), everything[first:stop])
            part = tokens.counted(int(first), int(stop))
            wanted = np.ones(stop - first, bool) if flags is None else flags[first:stop]
            np.testing.assert_array_equal(np.ones(stop - first, bool) if part is None else part, wanted)


@pytest.mark.parametrize("masked", [(False, False), (True, False), (True, True)])
def test_joined_sources_lie_one_after_the_other(masked):
    first, second = (memory(uneven(20, i), i, mask, f"m{i}") for i, mask in enumerate(masked))
    both = Joined([first, second])
    everything, flags, starts, names = whole(both)
    np.testing.assert_array_equal(everything, np.concatenate([first.tokens, second.tokens]))
    np.testing.assert_array_equal(starts, np.concatenate([first.starts, second.starts + len(first)]))
    assert names == [f"m0:{i}" for i in range(20)] + [f"m1:{i}" for i in range(20)]
    if any(masked):
        parts = [np.ones(len(m), bool) if m.mask is None else m.mask for m in (first, second)]
        np.testing.assert_array_equal(flags, np.concatenate(parts))
    else:
        assert flags is None
    check_windows(both)
    assert joined([first]) is first
    assert (both.fingerprint["documents"], both.fingerprint["tokens"]) == (40, len(first) + len(second))


def documents(tokens):
    ends = [*tokens.starts[1:], len(tokens)]
    return {tokens.name(i): tokens.read(int(a), int(b)).tolist() for i, (a, b) in enumerate(zip(tokens.starts, ends))}  # noqa: B905


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("numbered", [False, True])
def test_each_document_is_held_out_or_learned_from(masked, numbered):
    tokens = memory(uneven(400), masked=masked)
    digests = None if numbered else RNG.integers(0, 2**63, 400, dtype=np.uint64) * np.uint64(2)
    train, rest = split(tokens, digests, 0.1)
    assert 10 < len(rest.starts) < 90
    assert documents(train) | documents(rest) == documents(tokens)
    assert not documents(train).keys() & documents(rest).keys()
    for part in (train, rest):
        check_windows(part)
    assert predicted(train) + predicted(rest) == predicted(tokens)
    again = split(tokens, digests, 0.1)[1]
    np.testing.assert_array_equal(again.documents, rest.documents)
    assert train.fingerprint != rest.fingerprint


def test_more_is_held_out_of_a_larger_fraction_and_nothing_else_moves():
    tokens, digests = memory(uneven(300)), RNG.integers(0, 2**64, 300, dtype=np.uint64)
    small, large = (set(split(tokens, digests, fraction)[1].documents.tolist()) for fraction in (0.05, 0.3))
    assert small < large
    # Nor does the order of the documents matter.
    order = RNG.permutation(300)
    other = split(memory(uneven(300)), digests[order], 0.05)[1]
    assert set(order[other.documents].tolist()) == small


def test_equal_documents_are_on_the_same_side_and_never_learned_from_elsewhere():
    tokens = memory([5] * 200)
    digests = RNG.integers(0, 2**64, 20, dtype=np.uint64)[np.arange(200) % 20]
    train, rest = split(tokens, digests, 0.2)
    assert not set(digests[train.documents]) & set(digests[rest.documents])
    other = split(tokens, RNG.integers(0, 2**64, 200, dtype=np.uint64), 0.2, measured=[])[0]
    assert len(other.starts) > 100
    train, _ = split(tokens, digests, 0.2, measured=digests[:3])
    assert not set(digests[train.documents]) & set(digests[:3])


def test_not_too_much_is_held_out(monkeypatch):
    monkeypatch.setattr(held_out, "MOST", 100)
    tokens = memory([30] * 100)
    assert len(split(tokens, None, 0.5)[1]) == 90
    assert len(split(memory([300] * 10), None, 0.5)[1]) == 300  # one at least
    assert len(split(memory([10_000]), None, 0.5)[1]) == 100


def test_a_single_document_is_divided():
    tokens = memory([1000])
    train, rest = split(tokens, None, 0.05)
    np.testing.assert_array_equal(np.concatenate([whole(train)[0], whole(rest)[0]]), tokens.tokens)
    assert len(rest) == 50
    assert (train.name(0), rest.name(0)) == ("memory:0", "memory:0")
    check_windows(rest)
    with pytest.raises(UserError, match="too short to hold out"):
        split(memory([1]), None, 0.5)


def test_where_all_documents_are_equal_nothing_is_left():
    with pytest.raises(UserError, match="nothing is left to learn from"):
        split(memory([5, 5]), np.zeros(2, np.uint64), 0.05)


def test_few_documents_still_give_one_to_measure_with():
    train, rest = split(memory([5, 6, 7]), None, 0.001)
    assert (len(train.starts), len(rest.starts)) == (2, 1)


def test_held_out_text_is_measured_where_it_counts():
    made = small_tokenizer()
    ids = [made.bos_id, *made.encode("river über"), made.eos_id]
    tokens = Memory(np.array([0, len(ids)]), np.array(ids * 2, np.int32))
    assert held_out.text_bytes(tokens, made) == 2 * len("river über".encode())
    tokens.mask = np.arange(2 * len(ids)) >= len(ids)
    assert held_out.text_bytes(tokens, made) == len("river über".encode())
