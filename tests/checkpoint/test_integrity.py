"""The integrity file: whatever happens to the files of a checkpoint is found."""

import json
import os
import random
import shutil
import tracemalloc
from pathlib import Path

import pytest

from rnope_jax.checkpoint import integrity
from rnope_jax.errors import UserError
from tests.checkpoint.faults import delete, flip_bit, kinds, truncate

#: What Orbax writes for a state and a few words.
ROLES = {
    "_CHECKPOINT_METADATA",
    "about/_METADATA",
    "about/_strings.json",
    "about/commit_success.txt",
    "commit_success.txt",
    "state/_METADATA",
    "state/_sharding",
    "state/array_metadatas/process_0",
    "state/commit_success.txt",
    "state/d/*",
    "state/manifest.ocdbt",
    "state/ocdbt.process_0/d/*",
    "state/ocdbt.process_0/manifest.ocdbt",
    integrity.NAME,
}


@pytest.fixture
def step(saved, tmp_path) -> Path:
    """A copy of checkpoint 3."""
    return shutil.copytree(saved / "3", tmp_path / "3")


def test_all_files_are_listed_and_an_untouched_checkpoint_is_whole(step):
    assert set(kinds(step)) == ROLES
    listed = json.loads((step / integrity.NAME).read_text())["files"]
    assert set(listed) == {str(path.relative_to(step)) for path in step.rglob("*") if path.is_file()} - {integrity.NAME}
    assert integrity.damage(step) is None
    assert integrity.damage(step, contents=False) is None


@pytest.mark.parametrize("role", sorted(ROLES))
def test_every_flipped_bit_is_found(step, role):
    draw = random.Random(role)
    for file in kinds(step)[role]:
        before = file.read_bytes()
        for _ in range(12):
            flip_bit(file, draw)
            name = integrity.NAME if role == integrity.NAME else str(file.relative_to(step))
            assert integrity.damage(step).startswith(name)
            file.write_bytes(before)
    assert integrity.damage(step) is None


def test_every_truncated_and_every_missing_file_is_found_by_its_size_alone(step):
    draw = random.Random(0)
    for role, files in kinds(step).items():
        for file in files:
            before, name = file.read_bytes(), str(file.relative_to(step))
            truncate(file, draw)
            assert integrity.damage(step, contents=False).startswith(name)
            delete(file, draw)
            if role != integrity.NAME:
                assert integrity.damage(step, contents=False) == f"{name} is missing"
            file.write_bytes(before)
    assert integrity.damage(step) is None


def test_a_file_that_became_longer_is_found(step):
    with (step / "state" / "_METADATA").open("ab") as file:
        file.write(b" ")
    assert integrity.damage(step, contents=False).startswith("state/_METADATA has ")


def test_a_file_of_another_step_is_found(saved, step):
    for name in ("state/manifest.ocdbt", "_CHECKPOINT_METADATA"):
        shutil.copy(saved / "2" / name, step / name)
        assert integrity.damage(step) == f"{name} has other contents than were written"
        shutil.copy(saved / "3" / name, step / name)


def test_a_checkpoint_under_the_name_of_another_is_found(saved, tmp_path, step):
    other = shutil.copytree(saved / "2", tmp_path / "4")
    assert integrity.damage(other) == "its files are those of step 2"
    shutil.copy(saved / "2" / integrity.NAME, step / integrity.NAME)
    assert integrity.damage(step) == "its files are those of step 2"


def test_files_that_cannot_be_read_are_damage(step):
    for name in ("state/_METADATA", integrity.NAME):
        shutil.copytree(step, other := step.parent / "other" / "3", dirs_exist_ok=True)
        (other / name).unlink()
        (other / name).mkdir()
        assert name in integrity.damage(other)
        shutil.rmtree(other)


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", "7", '{"self": 1}', "[" * 100_000, "\xff"])
def test_an_integrity_file_of_nonsense_is_damage(step, text):
    (step / integrity.NAME).write_bytes(text.encode("latin-1"))
    assert integrity.damage(step) == f"{integrity.NAME} itself is damaged"
    assert integrity.written(step) is None


def test_a_later_format_is_no_damage_but_not_for_us(step):
    body = json.loads((step / integrity.NAME).read_text())
    del body["self"]
    body["format"] = 2
    (step / integrity.NAME).write_text(json.dumps({**body, "self": integrity._own_digest(body)}))
    with pytest.raises(UserError, match="was saved by a later version of rnope_jax"):
        integrity.damage(step)


def test_a_message_names_a_few_files(step):
    for file in step.rglob("*"):
        if file.is_file() and file.name != integrity.NAME:
            file.write_bytes(b"")
    assert integrity.damage(step).count(" bytes, ") == 3
    assert "; and " in integrity.damage(step)


def test_everything_is_on_disk_before_the_integrity_file_has_its_name(step, monkeypatch):
    (step / integrity.NAME).unlink()
    synced: list[str] = []
    sync, replace = os.fsync, Path.replace

    def recording(handle):
        synced.append(os.readlink(f"/proc/self/fd/{handle}"))
        sync(handle)

    def replacing(self, target):
        expected = {str(path) for path in [step, *step.rglob("*"), step.parent]}
        assert set(synced) == expected
        synced.clear()
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", recording)
    monkeypatch.setattr(Path, "replace", replacing)
    integrity.seal(step)
    assert synced == [str(step)]


def test_a_full_disk_leaves_no_half_of_an_integrity_file(step, monkeypatch):
    (step / integrity.NAME).unlink()

    def full(_self, _target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        integrity.seal(step)
    assert set(kinds(step)) == ROLES - {integrity.NAME}


def test_what_an_interrupted_seal_left_does_not_count(step):
    (step / integrity.NAME).rename(step / f".{integrity.NAME}.partial")
    assert not integrity.is_sealed(step)
    integrity.seal(step)
    assert integrity.damage(step) is None
    assert f".{integrity.NAME}.partial" not in json.loads((step / integrity.NAME).read_text())["files"]


def test_memory_does_not_grow_with_the_files(tmp_path):
    step = tmp_path / "1"
    step.mkdir()
    for number in range(4):
        (step / str(number)).write_bytes(bytes(16 << 20))
    tracemalloc.start()
    try:
        integrity.seal(step)
        assert integrity.damage(step) is None
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
