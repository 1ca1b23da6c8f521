"""Sources are interleaved by their weights, and a row is a function of its number."""

from collections import Counter
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from rnope_jax import flops
from rnope_jax.config import ScheduleConfig, SourceConfig, StageConfig
from rnope_jax.data import Mixture
from rnope_jax.errors import ConfigError, UserError
from tests.data.tokens import Memory, uneven

LENGTH = 32


def stage(*sources: SourceConfig, steps: int = 50, batch_size: int = 8, **changes) -> StageConfig:
    return StageConfig(
        name="s",
        steps=steps,
        sequence_length=LENGTH,
        batch_size=batch_size,
        schedule=ScheduleConfig(peak=1e-3),
        mixture=sources,
        **changes,
    )


def source(name: str, weight: float, packing: str = "concat", **changes) -> SourceConfig:
    return SourceConfig(name=name, weight=weight, packing=packing, corpus=(name,), **changes)


def stores(count: int, documents: int = 60) -> list[Memory]:
    return [Memory.of(uneven(documents + 7 * i, seed=i), label=f"store{i}") for i in range(count)]


def of_weights(*weights: float, packing: str = "concat", **changes) -> Mixture:
    sources = [source(str(i), weight, packing) for i, weight in enumerate(weights)]
    return Mixture(stage(*sources, **changes), stores(len(weights)), (0, 0))


WEIGHTS = [(3, 1), (0.1, 0.9), (1, 1, 1), (0.5, 0.3, 0.15, 0.05), (1, 1000), (7,)]


@pytest.mark.parametrize("weights", WEIGHTS, ids=str)
def test_every_window_of_rows_has_its_shares(weights):
    mixture = of_weights(*weights)
    rows = [mixture.row(number)[0] for number in range(3000)]
    running = np.cumsum(np.eye(len(weights), dtype=int)[rows], axis=0)
    shares = np.array(weights) / sum(weights)
    rng = np.random.default_rng(0)
    for begin, stop in np.sort(rng.integers(0, 3000, (200, 2)), axis=1):
        found = running[stop] - running[begin]
        assert np.abs(found - (stop - begin) * shares).max() < 3
    for number in (1, 17, 2999):
        assert [mixture.rows_of(i, number + 1) for i in range(len(weights))] == running[number].tolist()


def test_lengths_of_documents_are_known_without_reading():
    sources = [source("a", 2, "best_fit", sequence_length=16), source("b", 1), source("c", 1, min_tokens=9)]
    mixture = Mixture(stage(*sources), stores(3), (0, 0))
    for step in (0, 7):
        lengths = flops.document_lengths(mixture.batch(step).segment_ids)
        np.testing.assert_array_equal(mixture.lengths(step), lengths)


def test_shares_are_of_tokens_where_rows_have_padding():
    """One source fills its rows badly, so it gets more of them."""
    badly, well = Memory.of([22] * 50), Memory.of([33] * 50)
    sources = source("badly", 1, "best_fit"), source("well", 1, "best_fit")
    mixture = Mixture(stage(*sources), [badly, well], (0, 0))
    assert [part.rows.padding for part in mixture.sources] == pytest.approx([11 / 32, 0])
    assert mixture.sources[0].share == Fraction(32, 32 + 21)
    tokens = Counter()
    for step in range(53):
        batch = mixture.batch(step)
        for row in range(8):
            tokens[mixture.row(step * 8 + row)[0]] += int((batch.segment_ids[row] > 0).sum())
    assert tokens[0] == tokens[1]
    mixture = Mixture(stage(*sources, steps=53), [badly, well], (0, 0))
    assert all("50.00% of the tokens" in line for line in mixture.report())


def test_three_to_one_of_short_and_long_sequences():
    """The paper's fine-tuning: three quarters of the tokens in short sequences, one in long ones."""
    short, long = Memory.of(uneven(500, most=8)), Memory.of([LENGTH + 1] * 40)
    sources = source("short", 3, sequence_length=8), source("long", 1, "best_fit")
    mixture = Mixture(stage(*sources), [short, long], (0, 0))
    for step in range(20):
        batch = mixture.batch(step)
        longest = batch.positions.max(axis=1) + 1
        assert Counter(longest.tolist())[LENGTH] == 2
        assert sorted(longest)[5] <= 8
        assert (batch.segment_ids > 0).all()


@pytest.mark.parametrize("packing", ["concat", "best_fit"])
@pytest.mark.parametrize("weights", [(1,), (3, 1), (0.1, 0.9), (0.5, 0.3, 0.2)], ids=str)
def test_each_source_reads_each_of_its_rows_once_an_epoch(weights, packing):
    mixture = of_weights(*weights, packing=packing)
    seen: list[list[int]] = [[] for _ in weights]
    number = 0
    while any(len(rows) < 3 * len(part.rows) for rows, part in zip(seen, mixture.sources, strict=True)):
        part, row = mixture.row(number)
        seen[part].append(row)
        number += 1
    for rows, part in zip(seen, mixture.sources, strict=True):
        count = len(part.rows)
        epochs = [tuple(rows[i * count : (i + 1) * count]) for i in range(3)]
        assert all(Counter(epoch) == Counter(range(count)) for epoch in epochs)
        assert len(set(epochs)) == 3
        assert tuple(range(count)) not in epochs


def test_orders_differ_by_seed_stage_and_source():
    def order(seed, index=0, part=0):
        mixture = Mixture(stage(source("a", 1), source("b", 1)), [Memory.of(uneven(80))] * 2, (seed, index))
        return tuple(row for number in range(60) for found, row in [mixture.row(number)] if found == part)

    orders = [order(0), order(1), order(0, 1), order(1, 1), order(0, part=1), order(0, 1, part=1)]
    assert len(set(orders)) == len(orders)
    assert order(0) == orders[0]


def test_many_rows_are_shuffled_without_a_list_of_them(monkeypatch):
    store = Memory(np.array([0]), np.broadcast_to(np.int32(5), LENGTH * 70_000 + 1))
    mixture = Mixture(stage(), [store], (0, 0))
    assert len(mixture.sources[0].rows) == 70_000
    monkeypatch.setattr("rnope_jax.data.mixture._order", None)
    first, second = ({mixture.row(number)[1] for number in range(i, i + 300)} for i in (0, 70_000))
    assert len(first) == len(second) == 300
    assert len(first & second) < 20


@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("packing", ["concat", "best_fit"])
def test_the_rows_of_all_processes_make_up_the_global_batch(packing, processes):
    parts = [of_weights(0.1, 0.9, packing=packing) for _ in range(processes)]
    whole = of_weights(0.1, 0.9, packing=packing)
    for step in (0, 1, 49):
        shares = np.split(np.arange(8), processes)
        batches = [part.batch(step, rows.tolist()) for part, rows in zip(parts, shares, strict=True)]
        for name, value in whole.batch(step)._asdict().items():
            joined = np.concatenate([getattr(batch, name) for batch in batches])
            np.testing.assert_array_equal(joined, value)


def test_documents_of_a_step_are_named_by_their_stores():
    mixture = of_weights(1, 1)
    batch, names = mixture.batch(3), mixture.documents(3)
    expected = {}
    for row in range(8):
        part, _ = mixture.row(3 * 8 + row)
        store = mixture.sources[part].rows.store
        real = batch.segment_ids[row] > 0
        for token in batch.tokens[row][real]:
            expected[f"store{part}:{int(np.searchsorted(store.starts, token - 1, side='right')) - 1}"] = None
    assert names == list(expected)


def test_the_report_tells_padding_and_epochs():
    sources = source("short", 3, sequence_length=8), source("long", 1, "best_fit", min_tokens=20)
    mixture = Mixture(stage(*sources), stores(2), (0, 0))
    short, long = mixture.report()
    rows = mixture.sources[0].rows
    assert short.startswith(f"stage s: short, 7{short.split('short, 7')[1][:4]}% of the tokens: ")
    assert f"in {len(rows):,} rows (concat), 0.00% padding, {rows.split} documents are cut" in short
    assert f"read {mixture.rows_of(0, 400) / len(rows):.3g} times" in short
    assert "(best_fit)" in long
    assert f"{mixture.sources[1].rows.padding:.2%} padding" in long


def test_a_plain_stage_is_a_mixture_of_one():
    plain = stage(corpus=("a",), packing="best_fit")
    assert plain.sources == (SourceConfig(name="s", corpus=("a",), packing="best_fit"),)
    mixture = Mixture(plain, stores(1), (0, 0))
    assert {mixture.row(number)[0] for number in range(100)} == {0}
    assert mixture.report()[0].startswith("stage s: 45 documents in 24 rows (best_fit)")


def test_no_document_of_the_lengths_asked_for():
    with pytest.raises(UserError, match=r"no document in store0 has 500 to 600 tokens, as the source 'a' wants"):
        Mixture(stage(source("a", 1, min_tokens=500, max_tokens=600)), stores(1), (0, 0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: source("a", 0), r"stages\[\].mixture\['a'\].weight = 0.0: must be positive"),
        (lambda: source("a", 1, min_tokens=1), "min_tokens = 1: must be at least 2"),
        (lambda: source("a", 1, min_tokens=9, max_tokens=8), "max_tokens = 8: must be at least min_tokens = 9"),
        (lambda: source("a", 1, "first_fit"), "must be one of 'concat', 'best_fit'"),
        (lambda: stage(source("a", 1), source("a", 2)), "names must differ"),
        (lambda: stage(source("a", 1), corpus=("b",)), "corpus = .*belongs to each source"),
        (lambda: stage(source("a", 1), packing="best_fit"), "packing = 'best_fit': belongs to each source"),
        (
            lambda: stage(source("a", 1), source("b", 1, sequence_length=12)),
            r"stages\['s'\].mixture.1.sequence_length = 12: must divide that of the stage, 32",
        ),
    ],
)
def test_what_cannot_be_mixed_is_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_a_mixture_reads_back_from_json():
    value = stage(source("a", 3, sequence_length=8), source("b", 1, "best_fit"))
    assert StageConfig.from_dict(value.to_dict()) == value
    assert StageConfig.from_dict(replace(value, mixture=()).to_dict()).mixture == ()
