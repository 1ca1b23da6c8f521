"""Runs that are stopped or killed, and the same command again."""

import random
import signal

import numpy as np
import pytest

from rnope_jax import model
from rnope_jax.checkpoint import saved_weights
from rnope_jax.run import Run
from tests.end_to_end.commands import TINY, finish, signal_when, start
from tests.training.runs import metrics


def assert_same_result(run_dir, expected_dir) -> None:
    """The last checkpoints hold the same parameters, bit for bit; every step was reported once."""
    actual, expected = (saved_weights(Run(path).checkpoints) for path in (run_dir, expected_dir))
    assert actual.step == expected.step == 20
    for name in model.describe(Run(expected_dir).config.model):
        np.testing.assert_array_equal(actual.read(name), expected.read(name), err_msg=name)
    assert [line for line in metrics(run_dir) if "loss" in line] == [
        line for line in metrics(expected_dir) if "loss" in line
    ]


@pytest.fixture
def command(text, tmp_path):
    # Without samples: they are the same, and cost a compilation.
    return ("train.py", TINY, "--data.corpus", text, "--run-dir", tmp_path / "run", "--evaluation.prompts")


def saved(run_dir) -> set[int]:
    checkpoints = run_dir / "checkpoints"
    return {int(path.name) for path in checkpoints.iterdir() if path.name.isdigit()} if checkpoints.is_dir() else set()


#: What appears in a run directory before training, in this order.
PREPARING = ("lock", ".tokenizer.partial", "tokenizer", "data")


def prepared(run_dir, name: str) -> bool:
    """Whether `name` is there or was: some of it is for moments only."""
    return any((run_dir / later).exists() for later in PREPARING[PREPARING.index(name) :])


def newest(run_dir) -> int:
    return max(saved(run_dir), default=0)


def test_stops_exit_with_code_0_and_the_same_command_goes_on(command, compiled, finished, tmp_path):
    """By SIGINT before there is anything to save, by SIGTERM when there is."""
    run_dir = tmp_path / "run"
    process = start(compiled, *command)
    signal_when(process, lambda: prepared(run_dir, ".tokenizer.partial"), signal.SIGINT)
    ended = finish(process)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.endswith("the same command goes on from where this one began\n") or "stopped after" in ended.out
    process, before = start(compiled, *command), newest(run_dir)
    signal_when(process, lambda: newest(run_dir) > before, signal.SIGTERM)
    ended = finish(process)
    assert (ended.code, ended.err) == (0, "")
    assert "the same command goes on from there" in ended.out
    stopped_at = int(ended.out.split("stopped after step ")[1].split()[0])
    assert newest(run_dir) == stopped_at < 20
    again = finish(start(compiled, *command))
    assert (again.code, again.err) == (0, "")
    assert f"resuming after step {stopped_at}" in again.out
    assert_same_result(run_dir, finished[0])


def test_kills_at_any_moment_do_no_harm(command, compiled, finished, tmp_path):
    """First while the data is prepared, then twice while every step is being saved."""
    run_dir = tmp_path / "run"
    moments = random.Random()
    while_preparing = moments.choice(PREPARING)
    process = start(compiled, *command)
    signal_when(process, lambda: prepared(run_dir, while_preparing), signal.SIGKILL)
    assert finish(process).code == -signal.SIGKILL
    kept = [newest(run_dir)]
    for _ in range(2):
        if kept[-1] == 20:  # where this process had to wait for its turn, the other one may have come to its end
            break
        process = start(compiled, *command)
        delay = moments.uniform(0, 0.1)
        signal_when(process, lambda: newest(run_dir) > kept[-1], signal.SIGKILL, delay)
        assert finish(process).code in (-signal.SIGKILL, 0)
        kept.append(newest(run_dir))
        assert kept[-1] > kept[-2]
    again = finish(start(compiled, *command))
    assert again.code == 0, again
    assert "Traceback" not in again.err
    assert f"resuming after step {kept[-1]}" in again.out, (while_preparing, kept)
    assert_same_result(run_dir, finished[0])
