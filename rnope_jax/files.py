"""Writing files so that a reader, or a run that starts after a crash, sees all of one or none."""

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Replaces the contents of a file at once."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Replaces the contents of a file at once."""
    aside = path.with_name(f".{path.name}.partial")
    with aside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    sync(path.parent)


def read_range(handle: int, first: int, stop: int) -> bytes:
    """The bytes of an open file from `first` to `stop`; fewer where it ends before."""
    data = os.pread(handle, stop - first, first)
    while len(data) < stop - first:  # the system reads at most 2 GiB at once
        more = os.pread(handle, stop - first - len(data), first + len(data))
        if not more:
            break
        data += more
    return data


@contextlib.contextmanager
def make_directory(path: Path) -> Iterator[Path]:
    """Yields an empty directory that gets the name `path` when the block ends without an error.

    After an error, nothing is left of it; after a kill, a directory `.NAME.partial` may be, which
    the next attempt clears away.

    Raises:
      OSError: if something of this name is there when the block ends (an empty directory may be), or
        another process is making it.
    """
    with work_directory(path) as aside:
        yield aside
        publish(aside, path)


@contextlib.contextmanager
def work_directory(path: Path) -> Iterator[Path]:
    """Yields an empty directory beside `path`, which is gone at the end: publish out of it what is finished.

    Raises:
      OSError: if another process works for the same `path`.
    """
    aside = path.with_name(f".{path.name}.partial")
    made = [parent for parent in path.absolute().parents if not parent.exists()]
    aside.mkdir(parents=True, exist_ok=True)
    handle = os.open(aside, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        _lock(handle, aside, path)
        for entry in list(aside.iterdir()):  # what a killed process left
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        try:
            yield aside
        finally:
            if _is(handle, aside):  # it was not published as a whole
                shutil.rmtree(aside, ignore_errors=True)
            with contextlib.suppress(OSError):  # in use: something was published there
                for parent in made:
                    parent.rmdir()
    finally:
        os.close(handle)


def publish(made: Path, path: Path) -> None:
    """Gives a finished file or directory its place, with everything of it on disk first.

    Raises:
      OSError: if something is there, other than an empty directory.
    """
    for part in [*made.rglob("*"), made]:
        sync(part)
    path.parent.mkdir(parents=True, exist_ok=True)
    empty = path.is_dir() and not path.is_symlink() and not any(path.iterdir())
    if os.path.lexists(path) and not empty:
        raise FileExistsError(errno.EEXIST, "came into being meanwhile; nothing was overwritten", str(path))
    made.rename(path)
    sync(path.parent)


def _lock(handle: int, aside: Path, path: Path) -> None:
    """Holds a directory for this process until `handle` is closed, where the file system can."""
    busy = BlockingIOError(errno.EBUSY, "another process is writing it", str(path))
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise busy from error
    except OSError:
        return
    if not _is(handle, aside):  # the one who held it has just published it
        raise busy


def _is(handle: int, path: Path) -> bool:
    """Whether an open directory still has this name."""
    try:
        return os.path.samestat(os.fstat(handle), path.lstat())
    except FileNotFoundError:
        return False


def sync(path: Path) -> None:
    """Returns when a file, or the names in a directory, are on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
