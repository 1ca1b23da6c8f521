"""Files and directories appear whole, in nobody's place, and leave nothing behind."""

import contextlib
import os
import signal
import subprocess
import sys

import pytest

from rnope_jax.files import make_directory, publish, read_range, work_directory, write_text


def names(path) -> set[str]:
    return {entry.name for entry in path.iterdir()}


def test_a_directory_appears_when_it_is_finished(tmp_path):
    out = tmp_path / "new" / "out"
    with make_directory(out) as aside:
        (aside / "inner").mkdir()
        (aside / "inner" / "file").write_text("x")
        assert not out.exists()
    assert (out / "inner" / "file").read_text() == "x"
    assert names(out.parent) == {"out"}


@pytest.mark.parametrize("make", [make_directory, work_directory])
def test_an_error_leaves_nothing(tmp_path, make):
    with contextlib.suppress(KeyboardInterrupt), make(tmp_path / "a" / "b" / "out") as aside:
        (aside / "file").write_text("x")
        raise KeyboardInterrupt
    assert names(tmp_path) == set()


def test_what_was_there_before_stays_after_an_error(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(ValueError, match="mine"), make_directory(tmp_path / "a" / "b" / "out"):
        raise ValueError("mine")
    assert names(tmp_path) == {"a"}
    assert names(tmp_path / "a") == set()


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_what_came_into_being_meanwhile_is_not_overwritten(tmp_path, kind):
    out = tmp_path / "out"
    make = {
        "file": out.touch,
        "link": lambda: out.symlink_to("nowhere"),
        "directory": lambda: (out / "precious").mkdir(parents=True),
    }[kind]
    with pytest.raises(FileExistsError, match="nothing was overwritten"), make_directory(out):
        make()
    assert names(tmp_path) == {"out"}
    assert {"file": out.is_file, "link": out.is_symlink, "directory": (out / "precious").exists}[kind]()


def test_an_empty_directory_may_be_there(tmp_path):
    with make_directory(tmp_path / "out") as aside:
        (aside / "file").write_text("x")
        (tmp_path / "out").mkdir()
    assert names(tmp_path / "out") == {"file"}


def test_two_cannot_make_the_same_directory_at_once(tmp_path):
    out = tmp_path / "out"
    with make_directory(out) as aside:
        (aside / "mine").write_text("")
        with pytest.raises(BlockingIOError, match="another process is writing it"), make_directory(out):
            pass
        assert names(aside) == {"mine"}
    assert names(out) == {"mine"}


_KILLED = """
import os, signal, sys
from pathlib import Path
from rnope_jax.files import make_directory
with make_directory(Path(sys.argv[1])) as aside:
    (aside / "inner").mkdir()
    (aside / "inner" / "half").write_text("x")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_is_cleared_away(tmp_path):
    out = tmp_path / "out"
    ended = subprocess.run([sys.executable, "-c", _KILLED, out], capture_output=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert names(tmp_path) == {".out.partial"}
    (tmp_path / ".out.partial" / "link").symlink_to(tmp_path)
    with make_directory(out) as aside:
        assert names(aside) == set()
        (aside / "whole").write_text("x")
    assert names(tmp_path) == {"out"}
    assert names(out) == {"whole"}


def test_a_link_in_the_place_of_the_work_is_not_followed(tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("x")
    (tmp_path / ".out.partial").symlink_to("precious")
    with pytest.raises(OSError, match="partial"), make_directory(tmp_path / "out"):
        pass
    assert names(tmp_path / "precious") == {"file"}


def test_everything_is_on_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    """Also directories inside: their entries are data of their own."""
    synced, real = set(), os.fsync

    def fsync(handle):
        path = os.readlink(f"/proc/self/fd/{handle}")
        assert not (tmp_path / "out").exists() or path == str(tmp_path)
        synced.add(os.path.relpath(path, tmp_path))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    with make_directory(tmp_path / "out") as aside:
        (aside / "inner").mkdir()
        (aside / "inner" / "file").write_text("x")
    assert synced == {".", ".out.partial", ".out.partial/inner", ".out.partial/inner/file"}


def test_a_file_is_published_out_of_the_work(tmp_path):
    with work_directory(tmp_path / "deep" / "out") as aside:
        (aside / "file").write_text("x")
        (aside / "rest").write_text("x")
        publish(aside / "file", tmp_path / "deep" / "out" / "file")
    assert names(tmp_path / "deep") == {"out"}
    assert names(tmp_path / "deep" / "out") == {"file"}
    (tmp_path / "other").write_text("y")
    with pytest.raises(FileExistsError):
        publish(tmp_path / "other", tmp_path / "deep" / "out" / "file")
    assert (tmp_path / "deep" / "out" / "file").read_text() == "x"


def test_text_is_replaced_at_once(tmp_path, monkeypatch):
    write_text(tmp_path / "file", "old")

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_text(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "old"


@pytest.mark.parametrize("most", [1, 3, 100])
def test_a_range_is_read_whole_however_little_the_system_reads_at_once(tmp_path, monkeypatch, most):
    """Of more than 2 GiB it gives 2 GiB."""
    content = bytes(range(50))
    (tmp_path / "file").write_bytes(content)
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda handle, count, offset: pread(handle, min(count, most), offset))
    with (tmp_path / "file").open("rb") as file:
        for first, stop in ((0, 50), (7, 31), (40, 90), (50, 60), (9, 9)):
            assert read_range(file.fileno(), first, stop) == content[first:stop]
