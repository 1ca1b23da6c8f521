"""A run that was stopped ends where it would have ended."""

import shutil
from dataclasses import replace

import jax
import numpy as np
import pytest

from rnope_jax.config import CheckpointConfig
from rnope_jax.errors import UserError
from tests.training.runs import metrics, run_config, train, tree_hash


def assert_same_state(actual, expected) -> None:
    flat, flat_expected = (jax.tree_util.tree_leaves_with_path(state) for state in (actual, expected))
    for (path, a), (_, b) in zip(flat, flat_expected, strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b), err_msg=jax.tree_util.keystr(path))


@pytest.fixture
def config(corpus, tmp_path):
    return run_config(corpus, tmp_path / "run")


@pytest.fixture
def copied(unbroken, config):
    """A copy of the finished run, in a directory of its own."""
    shutil.copytree(unbroken.run.path, config.directory)
    return config.directory


@pytest.mark.parametrize("stops", [(1,), (2, 6, 8)], ids=["early", "often, and between stages"])
def test_a_stopped_run_goes_on_bit_for_bit(config, unbroken, stops):
    for stop in stops:
        stopped = train(config, stop_at=stop)
        step = int(stopped.state.step)
        assert stop <= step <= stop + 1  # one step is under way when a report is written
        assert max(stopped.trainer.checkpoints.steps()) == step
    resumed = train(config)
    assert_same_state(resumed.state, unbroken.state)
    assert metrics(config.directory) == metrics(unbroken.run.path)
    assert f"resuming after step {step}" in resumed.said


def test_a_run_that_died_goes_on_from_its_last_checkpoint(config, unbroken, copied):
    """What was reported after that checkpoint is forgotten, and so is a line that was cut short."""
    shutil.rmtree(copied / "checkpoints" / "10")
    with (copied / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "los')
    resumed = train(config)
    assert "resuming after step 9" in resumed.said
    assert_same_state(resumed.state, unbroken.state)
    assert metrics(copied) == metrics(unbroken.run.path)


def test_each_step_is_reported_once(unbroken):
    lines = metrics(unbroken.run.path)
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 11))
    assert [(line["step"], line["final"]) for line in lines if "held_out_loss" in line] == [
        (0, False),
        (5, False),
        (10, True),
    ]


def test_a_finished_run_can_be_run_again_without_harm(config, unbroken, copied):
    before = tree_hash(copied / "checkpoints")
    again = train(config)
    assert_same_state(again.state, unbroken.state)
    assert tree_hash(copied / "checkpoints") == before
    assert metrics(copied) == metrics(unbroken.run.path)


def truncate(checkpoint) -> None:
    for file in (checkpoint / "state").rglob("d/*"):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def test_a_damaged_newest_checkpoint_is_set_aside_for_the_one_before(config, unbroken, copied):
    truncate(copied / "checkpoints" / "10")
    resumed = train(config)
    assert any("checkpoint 10 is damaged (state/" in line and "damaged-10" in line for line in resumed.said)
    assert "resuming after step 9" in resumed.said
    assert (copied / "checkpoints" / "damaged-10").is_dir()
    assert resumed.trainer.checkpoints.steps() == [9, 10]
    assert_same_state(resumed.state, unbroken.state)


def test_a_run_whose_checkpoints_are_all_damaged_is_not_begun_again(config, copied):
    for checkpoint in (copied / "checkpoints").iterdir():
        truncate(checkpoint)
    before = tree_hash(copied / "checkpoints")
    for _ in range(2):
        with pytest.raises(UserError, match=r"none of the checkpoints \[9, 10\] in .* can be read"):
            train(config)
    assert tree_hash(copied / "checkpoints") == before


def test_saving_and_reporting_may_change_on_resume(config, unbroken):
    train(config, stop_at=4)
    changed = replace(config, checkpoint=CheckpointConfig(every=2, keep=1))
    resumed = train(changed)
    assert_same_state(resumed.state, unbroken.state)
    assert resumed.trainer.checkpoints.steps() == [10]


def test_a_run_goes_on_with_its_own_tokens(config, unbroken, corpus, tmp_path):
    """Whatever becomes of the files meanwhile."""
    moved = shutil.copytree(corpus, tmp_path / "copy")
    config = run_config(moved, config.directory)
    train(config, stop_at=4)
    shutil.rmtree(moved)
    moved.mkdir()
    (moved / "other.txt").write_text("another text")
    assert_same_state(train(config).state, unbroken.state)


def test_a_run_goes_on_with_another_number_of_devices(corpus, tmp_path, unbroken):
    """To rounding: sums over devices have another order."""
    config = run_config(corpus, tmp_path / "run")
    train(config, stop_at=4)
    resumed = train(config, devices=2)
    for name, expected in unbroken.state.params.items():
        np.testing.assert_allclose(resumed.state.params[name], expected, atol=1e-4, err_msg=name)
