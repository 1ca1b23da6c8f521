"""Writing files so that a reader, or a run that starts after a crash, sees all of one or none."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Replaces the contents of a file at once."""
    aside = path.with_name(f".{path.name}.partial")
    with aside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    _sync(path.parent)


@contextlib.contextmanager
def replace_directory(path: Path) -> Iterator[Path]:
    """Yields an empty directory that takes the place of `path` when the block ends without an error.

    After an error, nothing is left of it; after a kill, a directory `.NAME.partial` may be.
    """
    aside = path.with_name(f".{path.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        yield aside
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    for file in aside.rglob("*"):
        if file.is_file():
            _sync(file)
    _sync(aside)
    if path.exists():
        shutil.rmtree(path)
    aside.rename(path)
    _sync(path.parent)


@contextlib.contextmanager
def work_directory(path: Path) -> Iterator[Path]:
    """Yields an empty directory beside `path`, which is gone at the end: rename out of it what is finished."""
    aside = path.with_name(f".{path.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        yield aside
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def publish(made: Path, path: Path) -> None:
    """Gives a finished file its place, with everything of it on disk first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _sync(made)
    made.rename(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
