"""`rnope checkpoints` as a user types it."""

import fcntl
import random
import shutil

import pytest

from rnope_jax.checkpoint import integrity
from rnope_jax.run import Run
from tests.checkpoint.faults import flip_bit, kinds, unseal
from tests.checkpoint.states import ABOUT, state
from tests.cli.test_errors import assert_one_message
from tests.end_to_end.commands import rnope_here
from tests.helpers import tiny_config
from tests.interop.models import model
from tests.training.runs import tree_hash


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run with the checkpoints 1 to 4. Only to be read."""
    from rnope_jax.checkpoint import Checkpoints
    from rnope_jax.config import CheckpointConfig

    run = Run(tmp_path_factory.mktemp("made") / "run")
    run.path.mkdir()
    run.record(tiny_config(model=model()))
    checkpoints = Checkpoints(run.checkpoints, CheckpointConfig(keep=9))
    for step in (1, 2, 3, 4):
        checkpoints.save(step, state(step), ABOUT)
    checkpoints.close()
    return run.path


@pytest.fixture
def run(made, tmp_path):
    return Run(shutil.copytree(made, tmp_path / "run"))


def damage(run: Run, *steps: int) -> None:
    for step in steps:
        flip_bit(kinds(run.checkpoints / str(step))["state/d/*"][0], random.Random(step))


def conditions(out: str) -> dict[str, str]:
    lines = [line.split(maxsplit=5) for line in out.splitlines()[1:] if ":" in line and not line.startswith("complete")]
    return {words[0]: words[5] for words in lines if len(words) > 5}


def test_it_lists_steps_dates_sizes_stages_and_conditions(run, capsys):
    unseal(run.checkpoints, 2)
    (run.checkpoints / "1" / "state" / "_METADATA").unlink()
    shutil.copytree(run.checkpoints / "3", run.checkpoints / "damaged-3")
    ended = rnope_here(capsys, "checkpoints", run.path)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines()[0].split() == ["step", "written", "(UTC)", "MB", "stage", "condition"]
    assert [line.split()[0] for line in ended.out.splitlines()[1:-1]] == ["1", "2", "3", "4", "damaged-3"]
    found = conditions(ended.out)
    assert found["1"] == "damaged: state/_METADATA is missing"
    assert (found["2"], found["3"], found["4"]) == ("unverified", "complete", "complete")
    assert ended.out.splitlines()[3].split()[4] == "only"
    assert ended.out.splitlines()[5].endswith("set aside")
    assert ended.out.splitlines()[-1] == "complete: all files have their sizes; --verify reads them"


def test_verifying_reads_all_files_and_its_exit_code_tells(run, capsys):
    ended = rnope_here(capsys, "checkpoints", run.path, "--verify")
    assert (ended.code, set(conditions(ended.out).values())) == (0, {"whole"})
    damage(run, 2)
    unseal(run.checkpoints, 3)
    before = tree_hash(run.path)
    ended = rnope_here(capsys, "checkpoints", run.path, "--verify")
    assert (ended.code, ended.err) == (1, "")
    found = conditions(ended.out)
    assert found["2"].startswith("damaged: state/d/")
    assert found["2"].endswith("has other contents than were written")
    assert (found["1"], found["3"], found["4"]) == ("whole", "unverified", "whole")
    assert tree_hash(run.path) == before


def test_pruning_tells_first_and_removes_when_told(run, capsys):
    before = tree_hash(run.path)
    ended = rnope_here(capsys, "checkpoints", run.path, "--prune", 2)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("would remove 1, 2 (")
    assert "MB); 4 is whole and stays\nnothing was removed; give --yes to do it" in ended.out
    assert tree_hash(run.path) == before
    ended = rnope_here(capsys, "checkpoints", run.path, "--prune", 2, "--yes")
    assert ended.out.startswith("removed 1, 2 (")
    assert sorted(path.name for path in run.checkpoints.iterdir()) == ["3", "4"]
    assert rnope_here(capsys, "checkpoints", run.path, "--prune", 2, "--yes").out == "nothing to remove\n"


def test_pruning_keeps_the_newest_good_one(run, capsys):
    damage(run, 3, 4)
    ended = rnope_here(capsys, "checkpoints", run.path, "--prune", 1, "--yes")
    assert ended.code == 0
    assert ended.out.startswith("removed 1, 3 (")
    assert ended.out.endswith("2 is whole and stays\n")
    assert sorted(path.name for path in run.checkpoints.iterdir()) == ["2", "4"]
    assert integrity.damage(run.checkpoints / "2") is None


def test_where_none_is_good_nothing_is_removed(run, capsys):
    damage(run, 1, 2, 3, 4)
    before = tree_hash(run.checkpoints)
    ended = rnope_here(capsys, "checkpoints", run.path, "--prune", 1, "--yes")
    assert_one_message(ended, r"none of the checkpoints \[1, 2, 3, 4\] is whole; nothing was removed")
    assert tree_hash(run.checkpoints) == before


def test_nothing_is_removed_while_the_run_is_trained(run, capsys):
    with (run.path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ended = rnope_here(capsys, "checkpoints", run.path, "--prune", 1, "--yes")
        assert_one_message(ended, "another process is training in this directory")
        assert rnope_here(capsys, "checkpoints", run.path, "--verify").code == 0
    assert len(list(run.checkpoints.iterdir())) == 4


@pytest.mark.parametrize(
    ("arguments", "pattern"),
    [
        (("--prune", 0), "prune = 0: keep at least 1"),
        (("--yes",), "--yes confirms --prune KEEP; give both"),
        (("--prune", 1, "--verify"), "are two commands"),
    ],
)
def test_what_cannot_be_meant_is_refused(run, capsys, arguments, pattern):
    before = tree_hash(run.path)
    assert_one_message(rnope_here(capsys, "checkpoints", run.path, *arguments), pattern)
    assert tree_hash(run.path) == before


@pytest.mark.parametrize("arguments", [(), ("--verify",), ("--prune", 1), ("--prune", 1, "--yes")])
def test_what_is_no_run_is_refused_and_left_alone(tmp_path, capsys, arguments):
    assert_one_message(rnope_here(capsys, "checkpoints", tmp_path, *arguments), "is not a run directory")
    assert not list(tmp_path.iterdir())
