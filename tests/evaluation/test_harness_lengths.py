"""Lengths that the harness's own samples of RULER can have."""

import random
import re
from types import SimpleNamespace

import pytest

from rnope_jax.errors import UserError
from rnope_jax.evaluation.harness_lengths import check_lengths
from tests.evaluation.reading import english
from tests.interop.models import small_tokenizer

TASKS = ("ruler_vt", "ruler_cwe", "ruler_fwe")


def shortest(task) -> int:
    """The number that the refusal of a hopeless length names, with what is allowed for."""
    with pytest.raises(UserError, match=rf"--lengths 20: lm-eval's {task} has no samples .* or --ruler ") as refused:
        check_lengths(english(), [task], [8000, 20])
    needed = int(re.search(r"about (\d+) tokens", str(refused.value))[1])
    return 1 + int(1.05 * needed)


@pytest.mark.parametrize("task", TASKS)
def test_lengths_are_refused_up_to_the_one_that_is_named(task):
    least = shortest(task)
    assert 60 < least < 1200
    check_lengths(english(), [task], [least])
    with pytest.raises(UserError, match=f"lengths {least - 1}: lm-eval's {task}"):
        check_lengths(english(), [task], [4096, least - 1])
    # Where nothing is given, it is 4,096 tokens.
    check_lengths(english(), [task], ())


def test_groups_hold_the_tasks():
    for name in ("ruler", "longcxt"):
        with pytest.raises(UserError, match="ruler_vt has no samples so short"):
            check_lengths(english(), [name], [128])
    check_lengths(english(), ["hellaswag", "niah_single_1"], [128])


def test_a_worked_example_that_is_never_short_enough():
    with pytest.raises(UserError, match=r"ruler_vt: lm-eval makes no samples .* takes \d+ tokens, of which 500"):
        check_lengths(small_tokenizer(), ["ruler_vt"], [100_000])


def test_the_harness_makes_samples_of_the_shortest_length_that_is_taken():
    harness = pytest.importorskip("lm_eval.tasks.ruler.vt_utils", exc_type=ImportError)

    random.seed(0)  # of the harness's draws

    def tokens(text):
        return SimpleNamespace(input_ids=english().encode(text))

    (example,) = harness.sys_vartrack_w_noise_random(tokens, num_samples=1, max_seq_length=500, incremental=5)
    length = shortest("ruler_vt")
    (sample,) = harness.sys_vartrack_w_noise_random(tokens, num_samples=1, max_seq_length=length, icl_example=example)
    assert len(sample["outputs"]) == 5
    assert 0.8 * length < sample["length"] <= length
