"""From damage to the newest good checkpoint; nothing that was saved is lost."""

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from rnope_jax.checkpoint import integrity, saved_weights
from rnope_jax.errors import UserError
from tests.checkpoint.faults import delete, flip_bit, kinds, truncate, unseal
from tests.checkpoint.states import ABOUT, abstract, assert_same, state
from tests.checkpoint.test_integrity import ROLES
from tests.training.runs import tree_hash

ROOT = Path(__file__).parents[2]


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


@pytest.mark.parametrize("fault", [flip_bit, truncate, delete])
def test_the_step_before_comes_back_bit_for_bit_whatever_file_is_hit(saved, tmp_path, opened, fault):
    """By Orbax itself, on a file of every kind."""
    draw, directory = random.Random(1), tmp_path / "checkpoints"
    shutil.copytree(saved, directory)
    checkpoints = opened()
    for role in sorted(ROLES - {integrity.NAME} if fault is delete else ROLES):
        fault(kinds(directory / "3")[role][0], draw)
        said: list[str] = []
        step, restored = checkpoints.restore(abstract(state()), said.append)
        assert step == 2
        assert_same(restored, state(2))
        assert len(said) == 1
        assert said[0].startswith("checkpoint 3 is damaged (")
        assert role.removesuffix("*") in said[0]
        shutil.rmtree(directory / "damaged-3")
        shutil.copytree(saved / "3", directory / "3")


def test_two_damaged_steps_are_passed_over_and_kept(directory, opened):
    (directory / "damaged-3").mkdir()
    before = {step: tree_hash(directory / step) for step in ("2", "3")}
    draw, said = random.Random(2), []
    for step in ("2", "3"):
        flip_bit(kinds(directory / step)["state/d/*"][0], draw)
        before[step] = tree_hash(directory / step)
    step, restored = opened().restore(abstract(state()), said.append)
    assert step == 1
    assert_same(restored, state(1))
    assert [line.split(" (")[0] for line in said] == ["checkpoint 3 is damaged", "checkpoint 2 is damaged"]
    assert [line.rpartition("; ")[2] for line in said] == ["set aside as damaged-3-again", "set aside as damaged-2"]
    assert names(directory) == {"1", "damaged-2", "damaged-3", "damaged-3-again"}
    assert {
        step: tree_hash(directory / f"damaged-{step}{more}") for step, more in (("2", ""), ("3", "-again"))
    } == before


def test_where_all_are_damaged_nothing_changes(directory, opened):
    for step in "123":
        flip_bit(kinds(directory / step)["state/_METADATA"][0], random.Random(step))
    checkpoints, before = opened(), tree_hash(directory)
    with pytest.raises(
        UserError, match=r"none of the checkpoints \[1, 2, 3\] .*checkpoint 3: state/_METADATA has other"
    ):
        checkpoints.restore(abstract(state()))
    assert tree_hash(directory) == before


def test_what_is_whole_is_not_set_aside_when_it_cannot_be_loaded(directory, opened, monkeypatch):
    """An error of the disk or of memory today is no damage."""
    checkpoints, before = opened(), tree_hash(directory)

    def failing(*_arguments):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(checkpoints._orbax, "load_checkpointables", failing)
    with pytest.raises(UserError, match=r"checkpoint 3 in .* is not damaged, but cannot be loaded: .*Input/output"):
        checkpoints.restore(abstract(state()))
    assert tree_hash(directory) == before


def test_a_checkpoint_without_integrity_file_is_decoded_used_and_sealed(directory, opened):
    unseal(directory, 1, 2, 3)  # as an earlier version left them
    said: list[str] = []
    checkpoints = opened()
    step, restored = checkpoints.restore(abstract(state()), said.append)
    assert step == 3
    assert_same(restored, state(3))
    assert len(said) == 1
    assert said[0].startswith("checkpoint 3 has no integrity file: ")
    assert "a changed bit would not be noticed; it gets one now" in said[0]
    checkpoints.wait()
    assert [integrity.is_sealed(directory / step) for step in "123"] == [False, False, True]
    assert integrity.damage(directory / "3") is None


def test_damage_of_a_checkpoint_without_integrity_file_is_found_by_decoding(saved, directory, opened):
    for role in ("state/manifest.ocdbt", "state/d/*", "state/_METADATA"):
        for fault in (truncate, delete):
            unseal(directory, 3)
            fault(kinds(directory / "3")[role][0], random.Random(role))
            said: list[str] = []
            step, restored = opened().restore(abstract(state()), said.append)
            assert (step, len(said)) == (2, 1), (role, fault)
            assert_same(restored, state(2))
            shutil.rmtree(directory / "damaged-3")
            shutil.copytree(saved / "3", directory / "3")


#: Saves steps 1 and 2; dies while step 2 is being sealed, at the moment that is asked for.
DIES = """
import os, signal, sys
from pathlib import Path
from rnope_jax.checkpoint import Checkpoints, integrity
from rnope_jax.config import CheckpointConfig
from tests.checkpoint.states import ABOUT, state

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

checkpoints = Checkpoints(Path(sys.argv[1]), CheckpointConfig(keep=1))
checkpoints.save(1, state(1), ABOUT)
checkpoints.wait()
if sys.argv[2] == "before":
    integrity.seal = die
else:
    Path.replace = die
checkpoints.save(2, state(2), ABOUT)
checkpoints.wait()
"""


@pytest.mark.parametrize("moment", ["before", "within"])
def test_a_kill_between_commit_and_integrity_file_loses_nothing(tmp_path, opened, moment):
    directory = tmp_path / "checkpoints"
    killed = subprocess.run([sys.executable, "-c", DIES, str(directory), moment], cwd=ROOT, env=os.environ)
    assert killed.returncode == -signal.SIGKILL
    assert {"1", "2"} <= names(directory)  # the old one goes when the new one is on disk
    assert not integrity.is_sealed(directory / "2")
    checkpoints, said = opened(keep=1), []
    step, restored = checkpoints.restore(abstract(state()), said.append)
    assert step == 2
    assert_same(restored, state(2))
    assert "has no integrity file" in said[0]
    checkpoints.wait()
    assert integrity.damage(directory / "2") is None
    assert names(directory) == {"2"}


def test_a_disk_that_is_full_at_the_integrity_file_is_told_and_loses_nothing(tmp_path, opened, monkeypatch):
    directory, checkpoints = tmp_path / "checkpoints", opened(keep=1)
    checkpoints.save(1, state(1), ABOUT)
    checkpoints.wait()

    def full(*_arguments):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(integrity, "write_text", full)
        checkpoints.save(2, state(2), ABOUT)
        with pytest.raises(UserError, match=r"cannot save to .*: No space left on device\. Earlier .* intact"):
            checkpoints.wait()
        with pytest.raises(UserError, match="cannot save to"):
            checkpoints.wait()
        checkpoints._sealed.clear()
    assert checkpoints.steps() == [1, 2]
    again = opened(keep=1)
    assert_same(again.restore(abstract(state()), lambda line: None)[1], state(2))
    again.wait()
    assert integrity.damage(directory / "2") is None
    assert again.steps() == [2]


def test_the_error_of_a_seal_comes_up_without_waiting(opened, monkeypatch):
    checkpoints = opened()
    monkeypatch.setattr(integrity, "seal", lambda path: (_ for _ in ()).throw(OSError(5, "Input/output error")))
    checkpoints.save(1, state(1), ABOUT)
    deadline = time.monotonic() + 240
    with pytest.raises(UserError, match="Input/output error"):  # noqa: PT012
        while time.monotonic() < deadline:
            checkpoints.poll()
            time.sleep(0.01)
    checkpoints._sealed.clear()


def test_training_does_not_wait_for_the_integrity_file_and_old_ones_stay_until_then(opened, monkeypatch):
    seal, go_on = integrity.seal, threading.Event()

    def slow(path):
        assert go_on.wait(600)
        seal(path)

    monkeypatch.setattr(integrity, "seal", slow)
    checkpoints = opened(keep=1)
    try:
        for step in (1, 2):
            checkpoints.save(step, state(step), ABOUT)
            checkpoints.poll()
        deadline = time.monotonic() + 240
        while checkpoints.steps() != [1, 2]:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert not any(integrity.is_sealed(checkpoints.directory / str(step)) for step in (1, 2))
    finally:
        go_on.set()
    checkpoints.wait()
    assert checkpoints.steps() == [2]
    assert integrity.damage(checkpoints.directory / "2") is None


def test_close_waits_for_the_integrity_file(opened, monkeypatch):
    seal = integrity.seal
    monkeypatch.setattr(integrity, "seal", lambda path: (time.sleep(0.3), seal(path)))
    checkpoints = opened()
    checkpoints.save(1, state(1), ABOUT)
    checkpoints.close()
    assert integrity.is_sealed(checkpoints.directory / "1")


def test_half_of_a_removed_checkpoint_is_none(directory, opened, monkeypatch):
    """Its name goes first."""
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda path, **_: (Path(path) / "commit_success.txt").unlink())
        checkpoints = opened(keep=1)
        checkpoints.save(4, state(4), ABOUT)
        checkpoints.wait()
        assert checkpoints.steps() == [4]
        assert {"deleted-1", "deleted-2", "deleted-3"} < names(directory)
    opened(keep=1)
    assert names(directory) == {"4"}


def test_parameters_are_read_from_the_newest_that_is_whole(directory):
    flip_bit(kinds(directory / "3")["state/d/*"][0], random.Random(3))
    before, said = tree_hash(directory), []
    weights = saved_weights(directory, report=said.append)
    assert weights.step == 2
    np.testing.assert_array_equal(weights.read("a.b"), state(2)["params"]["a.b"])
    assert len(said) == 1
    assert said[0].endswith("has other contents than were written); taking checkpoint 2")
    with pytest.raises(UserError, match=r"checkpoint 3 in .* is damaged: .*\. Take another step .* --trust-checkpoint"):
        saved_weights(directory, 3)
    assert saved_weights(directory, verify=False).step == 3
    assert tree_hash(directory) == before


def test_parameters_of_a_checkpoint_without_integrity_file_are_read_and_that_is_said(directory):
    unseal(directory, 3)
    said: list[str] = []
    assert saved_weights(directory, report=said.append).step == 3
    assert said[0].startswith("checkpoint 3 has no integrity file")
    truncate(kinds(directory / "3")["state/d/*"][0], random.Random(0))
    assert saved_weights(directory, report=said.append).step == 2
    for step in "12":
        delete(kinds(directory / step)["state/manifest.ocdbt"][0], random.Random(0))
    with pytest.raises(UserError, match=r"none of the checkpoints \[1, 2, 3\] .* --trust-checkpoint"):
        saved_weights(directory)
