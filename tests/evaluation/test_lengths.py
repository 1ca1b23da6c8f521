"""Lengths at which a model is evaluated."""

import pytest

from rnope_jax.evaluation.lengths import LengthError, lengths_for, planned


def plan(least: int, most: int):
    def made(lengths: tuple[int, ...]) -> str:
        for length in reversed(lengths):
            if not least <= length <= most:
                raise LengthError(f"{length} is not between {least} and {most}", length)
        return f"plan for {lengths}"

    return made


def test_lengths_lie_within_and_past_the_rows_of_training():
    assert lengths_for(1024) == (512, 1024, 2048, 4096, 8192)
    assert lengths_for(0) == lengths_for(1024)
    assert lengths_for(256) == (256, 512, 1024, 2048)
    assert lengths_for(10) == (256,)


@pytest.mark.parametrize(
    ("least", "most", "left"),
    [(0, 10**6, (512, 1024, 2048)), (600, 10**6, (1024, 2048)), (0, 600, (512,)), (600, 1500, (1024,))],
)
def test_lengths_that_cannot_be_are_told_and_left_out(least, most, left):
    told = []
    assert planned((), (512, 1024, 2048), plan(least, most), told.append) == (left, f"plan for {left}")
    gone = [length for length in (2048, 1024, 512) if length not in left]
    assert told == [f"{n:,} tokens are left out: {n} is not between {least} and {most}" for n in gone]


def test_where_no_length_can_be_that_is_an_error():
    with pytest.raises(LengthError, match="512 is not between 600 and 700"):
        planned((), (512, 1024), plan(600, 700), lambda _: None)


def test_a_length_that_was_asked_for_is_never_left_out():
    assert planned((512, 700), (1024,), plan(500, 900), pytest.fail) == ((512, 700), "plan for (512, 700)")
    with pytest.raises(LengthError, match="512 is not between 600 and 900"):
        planned((512, 700), (1024,), plan(600, 900), pytest.fail)
