"""Checkpoints: Orbax behind a small interface. Nothing else in the project imports Orbax.

A checkpoint is a directory named by its step. It holds `state`, a nested dict of arrays, and
`about`, a flat dict of text and numbers. It appears under its name when all of it is written.
"""

import asyncio
import errno
import logging
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tensorstore
from orbax.checkpoint import v1 as ocp

from rnope_jax.config import CheckpointConfig
from rnope_jax.errors import UserError

# Orbax reports every save at length and every error in each of its threads; what a user must know
# is raised from here as one message.
logging.getLogger("absl").setLevel(logging.CRITICAL)
logging.getLogger("asyncio").setLevel(logging.CRITICAL)

#: Largest piece in which an array is stored.
_CHUNK_BYTES = 256 * 2**20

_report_unraisable = sys.unraisablehook


def _unraisable(unraisable: Any) -> None:
    """Passes over what TensorStore's threads say to an event loop that Orbax has closed after an error."""
    if not (isinstance(unraisable.exc_value, RuntimeError) and str(unraisable.exc_value) == "Event loop is closed"):
        _report_unraisable(unraisable)


sys.unraisablehook = _unraisable


class Checkpoints:
    """The checkpoints of a run."""

    def __init__(self, directory: Path, config: CheckpointConfig):
        """Opens the directory, and makes it if need be; leftovers of interrupted saves are removed."""
        policies = ocp.training.preservation_policies
        kept: list[Any] = [policies.LatestN(config.keep)]
        if config.keep_every is not None:
            kept.append(policies.EveryNSteps(config.keep_every))
        self.directory = directory.absolute()
        self._saving = False
        context = ocp.Context()
        context.array.saving.scoped_storage_options_creator = _storage
        with context:
            self._orbax = ocp.training.Checkpointer(
                self.directory,
                # When to save is the training loop's decision.
                save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
                preservation_policy=policies.AnyPreservationPolicy(kept),
                cleanup_tmp_directories=True,
            )

    def steps(self) -> list[int]:
        """Steps of all checkpoints, rising."""
        return sorted(checkpoint.step for checkpoint in self._orbax.checkpoints)

    def save(self, step: int, state: Mapping[str, Any], about: Mapping[str, Any]) -> None:
        """Starts to save, and returns when the arrays may be changed; waits for a save under way."""
        if step in self.steps():
            return
        self._guarded(lambda: self._orbax.save_checkpointables_async(step, {"state": state, "about": dict(about)}))
        self._saving = True

    def poll(self) -> None:
        """Raises the error of a save that has failed in the background; costs nothing otherwise."""
        if self._saving and not self._orbax.is_saving_in_progress():
            self._saving = False
            self.wait()

    def wait(self) -> None:
        """Returns when the save under way is on disk."""
        self._guarded(self._orbax.wait)

    def close(self) -> None:
        """Waits, and lets go of the directory."""
        self._guarded(self._orbax.close)

    def restore(
        self, abstract: Mapping[str, Any], report: Callable[[str], None] = print
    ) -> tuple[int, dict[str, Any]] | None:
        """The newest readable checkpoint: its step and its state; None if there is no checkpoint.

        A checkpoint that cannot be read is set aside under another name, and the one before is taken.
        Where none can be read, all stay as they are: a run never begins again by itself.

        Args:
          abstract: shapes, types and shardings of the state; any mesh will do.
          report: told of checkpoints that are set aside.

        Raises:
          UserError: if there are checkpoints and none can be read.
        """
        steps = self.steps()
        damaged: list[tuple[int, str]] = []
        for step in reversed(steps):
            try:
                state = self._orbax.load_checkpointables(step, {"state": abstract})["state"]
            except Exception as error:  # Orbax raises many kinds, plain Exception among them
                damaged.append((step, _first_line(_origin(error))))
                continue
            for number, cause in damaged:
                aside = self._set_aside(number)
                report(f"checkpoint {number} cannot be read ({cause}); set aside as {aside.name}")
            return step, state
        if steps:
            raise UserError(
                f"none of the checkpoints {steps} in {self.directory} can be read ({damaged[0][1]}). "
                "Restore them from a copy, or start again with another run_dir. Nothing was changed"
            )
        return None

    def _set_aside(self, step: int) -> Path:
        target = self.directory / f"damaged-{step}"
        while target.exists():
            target = target.with_name(target.name + "-again")
        (self.directory / str(step)).rename(target)
        self._orbax.reload()
        return target

    def _guarded(self, action: Callable[[], Any]) -> None:
        try:
            action()
        except Exception as error:
            raise UserError(
                f"cannot save to {self.directory}: {_first_line(error)}. Earlier checkpoints are intact; "
                "make room or mend the disk and run the same command again"
            ) from error


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
            # The layout that Orbax documents: zarr arrays, named by their path, in one OCDBT store.
            store = {"driver": "ocdbt", "base": f"file://{self._state}/", "path": f"params.{name}/"}
            # What is missing is an error, not zeros: a run that goes on may delete the checkpoint meanwhile.
            array = {"driver": "zarr3", "kvstore": store, "fill_missing_data_reads": False}
            self._arrays[name] = self._guarded(lambda: tensorstore.open(array, open=True).result())
        return self._arrays[name]

    def _guarded(self, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except (ValueError, OSError) as error:
            where = f"checkpoint {self.step} in {self._state.parent.parent}"
            raise UserError(f"{where} cannot be read: {_first_line(_origin(error))}") from error


def wait_for_all(name: str, seconds: int) -> None:
    """Returns when every process of this program has come to the same point; at once where there is one.

    Raises:
      UserError: if one has not come in time.
    """
    if jax.process_count() == 1:
        return
    try:
        asyncio.run(ocp.multihost.sync_global_processes(name, operation_id=name, timeout=seconds))
    except Exception as error:
        raise UserError(f"another process did not come to {name!r} within {seconds} s") from error


def load_state(directory: Path, step: int, abstract: Mapping[str, Any]) -> dict[str, Any]:
    """The state of one checkpoint, optimizer and all.

    Args:
      directory: the checkpoints of a run.
      step: of which.
      abstract: shapes, types and shardings of the state; any mesh will do.

    Raises:
      UserError: if it cannot be read as such a state.
    """
    with ocp.training.Checkpointer(directory.absolute()) as orbax:
        try:
            return orbax.load_checkpointables(step, {"state": abstract})["state"]
        except Exception as error:  # Orbax raises many kinds, plain Exception among them
            cause = _first_line(_origin(error))
            raise UserError(f"checkpoint {step} in {directory} cannot be read: {cause}") from error


def saved_steps(directory: Path) -> list[int]:
    """Steps of the checkpoints in a directory, rising; none if it does not exist."""
    if not directory.is_dir():
        return []
    with ocp.training.Checkpointer(directory.absolute()) as orbax:
        return sorted(checkpoint.step for checkpoint in orbax.checkpoints)


def saved_weights(directory: Path, step: int | None = None) -> SavedWeights:
    """The parameters of the newest checkpoint, or of that of `step`.

    Raises:
      UserError: if there is none.
    """
    steps = saved_steps(directory)
    if not steps:
        raise UserError(f"{directory} holds no checkpoint yet: let the run reach its first one")
    if step is not None and step not in steps:
        raise UserError(f"step = {step}: {directory} holds checkpoints of the steps {steps}")
    return SavedWeights(directory, steps[-1] if step is None else step)


def _storage(path: tuple[Any, ...], value: Any) -> Any:
    """How an array is cut into pieces on disk: layers that are stacked for the scan can be read one by one."""
    options = ocp.options.ArrayOptions.Saving.StorageOptions
    if not getattr(value, "ndim", 0):
        return None
    stacked = any(str(getattr(key, "key", "")).startswith("periods.") for key in path)
    return options(chunk_byte_size=_CHUNK_BYTES, shard_axes=(0,) if stacked else None)


def _origin(error: BaseException) -> BaseException:
    """The error that led to this one; Orbax wraps what it meets in guesses at its cause."""
    while deeper := error.__cause__ or error.__context__:
        error = deeper
    return error


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    if (full := os.strerror(errno.ENOSPC)) in text:
        return full
    text = text.splitlines()[0]
    return text if len(text) <= 200 else text[:197] + "..."
