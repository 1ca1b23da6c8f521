"""The directories of checkpoints: what is there, and how one leaves its place without a trace of half of it."""

import contextlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from rnope_jax.files import sync

#: A checkpoint that is being removed: under this name it is none any more, however much of it is left.
_DELETED = "deleted-"

#: A checkpoint that was found damaged.
_DAMAGED = "damaged-"


def steps_in(directory: Path) -> list[int]:
    """Steps of the checkpoints in a directory, rising; none if it does not exist.

    A checkpoint is renamed to its number when all of it is written, so what has a number is complete.
    """
    try:
        entries = list(directory.iterdir())
    except FileNotFoundError:
        return []
    # As Orbax names them: "007" is not the checkpoint 7.
    return sorted(int(path.name) for path in entries if _is_step(path.name) and path.is_dir())


def _is_step(name: str) -> bool:
    return name.isascii() and name.isdigit() and name == str(int(name))


def set_aside(directory: Path, step: int) -> Path:
    """Takes a damaged checkpoint out of the row; none of it is lost."""
    target = directory / f"{_DAMAGED}{step}"
    while os.path.lexists(target):
        target = target.with_name(target.name + "-again")
    (directory / str(step)).rename(target)
    sync(directory)
    return target


def aside(directory: Path) -> list[Path]:
    """The checkpoints that were set aside."""
    return sorted(directory.glob(f"{_DAMAGED}*")) if directory.is_dir() else []


def remove(directory: Path, steps: Iterable[int]) -> None:
    """Deletes checkpoints; one that is deleted in part is no longer under its name."""
    for step in steps:
        doomed = directory / f"{_DELETED}{step}"
        with contextlib.suppress(FileNotFoundError):
            (directory / str(step)).rename(doomed)
    clear(directory)


def clear(directory: Path) -> None:
    """Deletes what an interrupted `remove` has left."""
    for doomed in directory.glob(f"{_DELETED}*"):
        shutil.rmtree(doomed, ignore_errors=True)


def kept(steps: list[int], newest: int, every: int | None) -> set[int]:
    """Which of the checkpoints stay: the newest, and the multiples of `every`."""
    return {*sorted(steps)[-newest:], *(step for step in steps if every is not None and step % every == 0)}
