"""Best-fit packing against the same rule, piece by piece."""

import numpy as np
import pytest

from rnope_jax.data.best_fit import best_fit
from tests.data.tokens import uneven


def one_by_one(sizes, capacity) -> list[int]:
    """Room left in each row, rising, when each piece from the longest on goes where it leaves the least."""
    rooms: list[int] = []
    for size in sorted(sizes, reverse=True):
        fitting = [room for room in rooms if room >= size]
        if fitting:
            rooms.remove(min(fitting))
        rooms.append((min(fitting) if fitting else capacity) - size)
    return sorted(rooms)


@pytest.mark.parametrize("seed", range(12))
def test_rows_are_filled_as_by_the_rule(seed):
    rng = np.random.default_rng(seed)
    capacity = int(rng.integers(1, 70))
    sizes = np.clip(uneven(int(rng.integers(1, 400)), seed, 80), 1, capacity)
    row_of, rows = best_fit(sizes, capacity)
    filled = np.bincount(row_of, sizes, rows).astype(int)
    assert sorted((capacity - filled).tolist()) == one_by_one(sizes.tolist(), capacity)


def test_no_row_overflows_or_is_empty_and_little_is_wasted():
    sizes = np.array(uneven(20_000, 3, 4000))
    row_of, rows = best_fit(sizes, 4000)
    filled = np.bincount(row_of, sizes, rows)
    assert filled.max() <= 4000
    assert filled.min() > 0
    assert rows <= -(-sizes.sum() // 4000) + 1


def test_nothing_and_one():
    assert best_fit(np.array([], int), 8)[1] == 0
    row_of, rows = best_fit(np.array([8]), 8)
    assert (row_of.tolist(), rows) == ([0], 1)
