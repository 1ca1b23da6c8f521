"""Checkpoints as they are read without Orbax: found whole or damaged, then parameter by parameter."""

import errno
import itertools
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore

from rnope_jax.checkpoint import integrity
from rnope_jax.checkpoint.steps import steps_in
from rnope_jax.errors import UserError

#: What TensorStore raises where files are not what they should be; anything else is a fault of ours, not of the disk.
_UNREADABLE = (ValueError, OSError, IndexError, NotImplementedError, RuntimeError)


@dataclass(frozen=True)
class Finding:
    """What a look at all files of a checkpoint has shown."""

    sealed: bool
    """Whether there is an integrity file to compare them with."""
    damage: str | None
    """What is wrong, in one line; None for nothing."""


def examine(path: Path) -> Finding:
    """Reads all of a checkpoint; no more than a piece of it is in memory.

    One without an integrity file was saved by an earlier version, or its run was killed between the
    save and that file. It is decoded from end to end, which finds what is missing or cut short, but
    not every changed bit.
    """
    if integrity.is_sealed(path):
        return Finding(True, integrity.damage(path))
    return Finding(False, _undecodable(path / "state"))


#: What is said of a checkpoint that could only be decoded.
UNSEALED = (
    "has no integrity file: it was saved by an earlier version, or the run was killed in that moment. "
    "All of it can be decoded, but a changed bit would not be noticed"
)


def newest_good(directory: Path, steps: list[int]) -> tuple[int | None, Finding | None, list[tuple[int, str]]]:
    """The newest of some checkpoints that is not damaged, what was found in it, and the damaged ones that are newer."""
    damaged: list[tuple[int, str]] = []
    for step in reversed(steps):
        finding = examine(directory / str(step))
        if finding.damage is None:
            return step, finding, damaged
        damaged.append((step, finding.damage))
    return None, None, damaged


def none_good(directory: Path, damaged: list[tuple[int, str]], otherwise: str) -> UserError:
    """The error of a directory whose checkpoints are all damaged; `otherwise` tells what else can be done."""
    steps = sorted(step for step, _ in damaged)
    return UserError(
        f"none of the checkpoints {steps} in {directory} can be read (checkpoint {damaged[0][0]}: {damaged[0][1]}). "
        f"Restore them from a copy, or {otherwise}. Nothing was changed"
    )


class SavedWeights:
    """The parameters of one checkpoint, read piece by piece (`weights.Weights`)."""

    def __init__(self, directory: Path, step: int):
        self.step = step
        self._state = directory.absolute() / str(step) / "state"
        self._arrays: dict[str, Any] = {}

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a parameter."""
        return tuple(self._array(name).shape)

    def dtype(self, name: str, layer: int | None = None) -> np.dtype:
        """The type of a parameter, the same for all its layers."""
        return self._array(name).dtype.numpy_dtype

    def read(self, name: str, index: tuple[slice, ...] = ()) -> np.ndarray:
        """A piece of a parameter, or all of it."""
        return self._guarded(lambda: self._array(name)[index].read().result())

    def _array(self, name: str) -> Any:
        if name not in self._arrays:
            self._arrays[name] = self._guarded(lambda: _open(self._state, f"params.{name}"))
        return self._arrays[name]

    def _guarded(self, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except _UNREADABLE as error:
            where = f"checkpoint {self.step} in {self._state.parent.parent}"
            raise UserError(f"{where} cannot be read: {first_line(origin(error))}") from error


def saved_steps(directory: Path) -> list[int]:
    """Steps of the checkpoints in a directory, rising; none if it does not exist."""
    return steps_in(directory)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def saved_weights(
    directory: Path, step: int | None = None, *, verify: bool = True, report: Callable[[str], None] = _say
) -> SavedWeights:
    """The parameters of the newest checkpoint that is whole, or of that of `step`. Changes nothing.

    Args:
      directory: the checkpoints of a run.
      step: of which; None for the newest.
      verify: reads all files of the checkpoint first; without, the newest is taken as it is.
      report: told of newer checkpoints that are damaged.

    Raises:
      UserError: if there is none, or it is damaged.
    """
    steps = steps_in(directory)
    if not steps:
        raise UserError(f"{directory} holds no checkpoint yet: let the run reach its first one")
    if step is not None and step not in steps:
        raise UserError(f"step = {step}: {directory} holds checkpoints of the steps {steps}; take one of them")
    if not verify:
        return SavedWeights(directory, steps[-1] if step is None else step)
    good, finding, damaged = newest_good(directory, steps if step is None else [step])
    if good is None or finding is None:
        if step is None:
            raise none_good(directory, damaged, "take the newest as it is: --trust-checkpoint")
        raise UserError(
            f"checkpoint {step} in {directory} is damaged: {damaged[0][1]}. Take another step of {steps}, "
            "or --trust-checkpoint to read it as it is"
        )
    for number, cause in damaged:
        report(f"checkpoint {number} is damaged ({cause}); taking checkpoint {good}")
    if not finding.sealed:
        report(f"checkpoint {good} {UNSEALED}")
    return SavedWeights(directory, good)


def _store(state: Path) -> dict[str, str]:
    return {"driver": "ocdbt", "base": f"file://{state.absolute()}/"}


def _open(state: Path, name: str) -> Any:
    # The layout that Orbax documents: zarr arrays, named by their path, in one OCDBT store.
    # What is missing is an error, not zeros: a run that goes on may delete the checkpoint meanwhile.
    spec = {"driver": "zarr3", "kvstore": {**_store(state), "path": f"{name}/"}, "fill_missing_data_reads": False}
    return tensorstore.open(spec, open=True).result()


def _undecodable(state: Path) -> str | None:
    """Why a saved state cannot be read from end to end; None if it can."""
    try:
        for name in _saved_names(state):
            array = _open(state, name)
            chunks = [range(0, size, step) for size, step in zip(array.shape, _chunk(array), strict=True)]
            for start in itertools.product(*chunks):
                piece = tuple(slice(at, at + step) for at, step in zip(start, _chunk(array), strict=True))
                array[_within(piece, array.shape)].read().result()
    except _UNREADABLE as error:
        return first_line(origin(error))
    return None


def _saved_names(state: Path) -> list[str]:
    """Names of all arrays, from the list that Orbax keeps of them.

    Raises:
      ValueError: if that is not such a list.
    """
    try:
        read = json.loads((state / "_METADATA").read_bytes())
        names = [".".join(part["key"] for part in entry["key_metadata"]) for entry in read["tree_metadata"].values()]
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{state.name}/_METADATA is not a list of arrays") from error
    if not names:
        raise ValueError(f"{state.name}/_METADATA names no arrays")
    return names


def _chunk(array: Any) -> tuple[int, ...]:
    return tuple(array.chunk_layout.read_chunk.shape or ())  # None for a single number


def _within(piece: tuple[slice, ...], shape: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(slice(part.start, min(part.stop, size)) for part, size in zip(piece, shape, strict=True))


def origin(error: BaseException) -> BaseException:
    """The error that led to this one; Orbax wraps what it meets in guesses at its cause."""
    while deeper := error.__cause__ or error.__context__:
        error = deeper
    return error


def first_line(error: BaseException) -> str:
    """An error in one line of bearable length."""
    text = str(error).strip() or type(error).__name__
    if (full := os.strerror(errno.ENOSPC)) in text:
        return full
    text = text.splitlines()[0]
    return text if len(text) <= 200 else text[:197] + "..."
