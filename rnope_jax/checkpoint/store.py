"""Checkpoints as training keeps them: Orbax behind a small interface. Nothing else in the project imports Orbax.

A checkpoint is a directory named by its step. It holds `state`, a nested dict of arrays, and
`about`, a flat dict of text and numbers. It appears under its name when all of it is written, and is
sealed by an integrity file after that.
"""

import asyncio
import errno
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from rnope_jax.checkpoint import integrity, steps
from rnope_jax.checkpoint.reading import UNSEALED, first_line, newest_good, none_good, origin
from rnope_jax.config import CheckpointConfig
from rnope_jax.errors import LostProcessError, UserError

# Orbax reports every save at length and every error in each of its threads; what a user must know
# is raised from here as one message.
logging.getLogger("absl").setLevel(logging.CRITICAL)
logging.getLogger("asyncio").setLevel(logging.CRITICAL)

#: Largest piece in which an array is stored.
_CHUNK_BYTES = 256 * 2**20

#: Seconds for which processes wait for the one that reads or hashes all of a checkpoint.
_TURN = 24 * 3600

#: Does what may take long: in the first process the work itself, in the others nothing. It may raise in all of them.
Attended = Callable[[Callable[[], int]], int]


def _plainly(action: Callable[[], int]) -> int:
    return action()


_report_unraisable = sys.unraisablehook


def _unraisable(unraisable: Any) -> None:
    """Passes over what TensorStore's threads say to an event loop that Orbax has closed after an error."""
    if not (isinstance(unraisable.exc_value, RuntimeError) and str(unraisable.exc_value) == "Event loop is closed"):
        _report_unraisable(unraisable)


sys.unraisablehook = _unraisable


class Checkpoints:
    """The checkpoints of a run. In a run of several processes, all call the same methods in the same order."""

    def __init__(self, directory: Path, config: CheckpointConfig):
        """Opens the directory, and makes it if need be; leftovers of interrupted saves are removed."""
        self.directory = directory.absolute()
        self._config = config
        self._first = jax.process_index() == 0
        # What follows a save has one thread, so it comes in order: commit, seal, remove what is not kept.
        self._background = ThreadPoolExecutor(1, "checkpoint")
        self._committed: Future[Any] | None = None
        self._sealed: list[Future[None]] = []
        self._newest: int | None = None
        context = ocp.Context()
        context.array.saving.scoped_storage_options_creator = _storage
        with context:
            self._orbax = ocp.training.Checkpointer(
                self.directory,
                # When to save is the training loop's decision.
                save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
                # Orbax would remove an old checkpoint when the new one is committed; it may go only
                # when the new one is on disk.
                preservation_policy=ocp.training.preservation_policies.PreserveAll(),
                cleanup_tmp_directories=True,
            )
        if self._first:
            steps.clear(self.directory)

    def steps(self) -> list[int]:
        """Steps of all checkpoints, rising."""
        return steps.steps_in(self.directory)

    def save(self, step: int, state: Mapping[str, Any], about: Mapping[str, Any]) -> None:
        """Starts to save, and returns when the arrays may be changed; waits for a save under way.

        It does not wait for the integrity file of the save before, unless that of the one before it
        is not written either.
        """
        if step == self._newest or step in self.steps():
            return
        if self._committed is not None:
            self._guarded(self._committed.result)
        self.poll()
        self._guarded(lambda: self._start(step, {"state": state, "about": dict(about)}))
        self._newest = step

    def _start(self, step: int, content: dict[str, Any]) -> None:
        saving = self._orbax.save_checkpointables_async(step, content)
        self._committed = self._background.submit(saving.result)
        self._follow(step, self._committed)

    def _follow(self, step: int, committed: "Future[Any] | None" = None) -> None:
        """Seals a checkpoint when it is committed."""
        if self._first:  # for all: a commit is one of all processes
            self._sealed.append(self._background.submit(self._seal, step, committed))

    def _seal(self, step: int, committed: "Future[Any] | None") -> None:
        if committed is not None and committed.exception() is not None:
            return  # told by whoever waits for the commit
        integrity.seal(self.directory / str(step))
        there = self.steps()
        # Of those that are newer, none is known to be on disk yet.
        past = [other for other in there if other <= step]
        steps.remove(self.directory, set(past) - steps.kept(past, self._config.keep, self._config.keep_every))

    def poll(self) -> None:
        """Raises the error of a save that has failed in the background; costs nothing otherwise."""
        done = [future for future in (self._committed, *self._sealed) if future is not None and future.done()]
        self._sealed = [future for future in self._sealed if future not in done]
        for future in done:
            self._guarded(future.result)

    def wait(self) -> None:
        """Returns when the save under way is on disk and sealed."""
        if self._committed is not None:
            self._guarded(self._committed.result)
        for future in self._sealed:
            self._guarded(future.result)
        self.poll()

    def close(self) -> None:
        """Waits for all that is under way, in all processes, and lets go of the directory."""
        self.wait()
        self._background.shutdown()
        # A process that leaves early waits for the others no longer than it takes them to seem dead.
        wait_for_all("checkpoints closed", _TURN)
        self._guarded(self._orbax.close)

    def restore(
        self,
        abstract: Mapping[str, Any],
        report: Callable[[str], None] = print,
        admit: Callable[[Mapping[str, Any]], None] = lambda about: None,
        attended: Attended = _plainly,
    ) -> tuple[int, dict[str, Any]] | None:
        """The newest checkpoint that is whole: its step and its state; None if there is no checkpoint.

        All its files are verified before it is loaded. One that is damaged is set aside under another
        name, and the one before is taken. Where all are damaged, all stay as they are: a run never
        begins again by itself.

        Args:
          abstract: shapes, types and shardings of the state; any mesh will do.
          report: told of checkpoints that are set aside or cannot be verified.
          admit: given what the chosen checkpoint says about itself before its state is loaded; raises to refuse it.
          attended: does what may take long.

        Raises:
          UserError: if there are checkpoints and none can be read, or the newest that is whole holds another
            state. Nothing is changed then.
        """
        # One process looks and decides; the others, which would find the same, take its word.
        step = from_first("checkpoint verified", lambda: self._choose(abstract, report), attended)
        if step < 0:
            return None
        self._orbax.reload()
        self._newest = None  # what was saved after it may be saved again
        admit(self._reading(step, lambda: self._orbax.load_checkpointables(step, {"about": None})["about"]))
        return step, self._load(step, abstract)

    def _choose(self, abstract: Mapping[str, Any], report: Callable[[str], None]) -> int:
        there = self.steps()
        if not there:
            return -1
        step, finding, damaged = newest_good(self.directory, there)
        if step is None or finding is None:
            raise none_good(self.directory, damaged, "start again with another run_dir")
        self._check(step, abstract)
        for number, cause in damaged:
            aside = steps.set_aside(self.directory, number)
            report(f"checkpoint {number} is damaged ({cause}); set aside as {aside.name}")
        if not finding.sealed:
            report(f"checkpoint {step} {UNSEALED}; it gets one now")
            self._follow(step)
        return step

    def _check(self, step: int, abstract: Mapping[str, Any]) -> None:
        """Refuses a state of other names, shapes or types: Orbax would convert types without a word."""
        saved = self._reading(step, lambda: self._orbax.checkpointables_metadata(step).metadata["state"])
        there, here = dict(_leaves(saved)), dict(_leaves(abstract))
        for name in sorted(there.keys() | here.keys()):
            old, new = (found.get(name, "absent") for found in (there, here))
            if old != new:
                raise UserError(f"checkpoint {step} in {self.directory}: {name} is {old} there and {new} here")

    def _load(self, step: int, abstract: Mapping[str, Any]) -> dict[str, Any]:
        return self._reading(step, lambda: self._orbax.load_checkpointables(step, {"state": abstract})["state"])

    def _reading(self, step: int, action: Callable[[], Any]) -> Any:
        """What Orbax reads of a checkpoint that is whole: if it fails, that is no reason to set it aside."""
        try:
            return action()
        except Exception as error:  # Orbax raises many kinds, plain Exception among them
            cause = first_line(origin(error))
            raise UserError(
                f"checkpoint {step} in {self.directory} is not damaged, but cannot be loaded: {cause}. "
                "Nothing was changed"
            ) from error

    def _guarded(self, action: Callable[[], Any]) -> None:
        try:
            action()
        except Exception as error:
            if jax.process_count() > 1 and not any(os.strerror(number) in str(error) for number in _DISK):
                # What a process that died had not written is missed by those that live.
                raise LostProcessError(
                    f"cannot save to {self.directory}: {first_line(error)}. Another process was lost or has failed; "
                    "earlier checkpoints are intact"
                ) from error
            raise UserError(
                f"cannot save to {self.directory}: {first_line(error)}. Earlier checkpoints are intact; "
                "make room or mend the disk and run the same command again"
            ) from error


#: Errors that only the user can mend.
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EIO)


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """The arrays of a nested dict: dotted name, then type and shape as text."""
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{name}.")
        else:
            yield name, f"{np.dtype(value.dtype).name}{list(value.shape)}"


def from_first(name: str, action: Callable[[], int], attended: Attended = _plainly) -> int:
    """A number that the first process finds, in all processes.

    Args:
      name: of what it is, for messages.
      action: finds it.
      attended: calls the action, and in the other processes one that gives 0.
    """
    number = attended(action if jax.process_index() == 0 else lambda: 0)
    if jax.process_count() == 1:
        return number
    wait_for_all(name, _TURN)  # it may take longer than processes wait for each other's arrays
    return int(multihost_utils.broadcast_one_to_all(np.int32(number)))


def wait_for_all(name: str, seconds: int) -> None:
    """Returns when every process of this program has come to the same point; at once where there is one.

    Raises:
      LostProcessError: if one has died, or has not come in time.
    """
    if jax.process_count() == 1:
        return
    began = time.monotonic()
    try:
        asyncio.run(ocp.multihost.sync_global_processes(name, operation_id=name, timeout=seconds))
    except Exception as error:
        waited = time.monotonic() - began
        why = f"did not come within {seconds} s" if waited >= seconds else "was lost"
        raise LostProcessError(f"waiting for {name!r}: another process {why}") from error


def load_state(directory: Path, step: int, abstract: Mapping[str, Any]) -> dict[str, Any]:
    """The state of one checkpoint that was verified, optimizer and all.

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
            cause = first_line(origin(error))
            raise UserError(f"checkpoint {step} in {directory} cannot be read: {cause}") from error


def _storage(path: tuple[Any, ...], value: Any) -> Any:
    """How an array is cut into pieces on disk: layers that are stacked for the scan can be read one by one."""
    options = ocp.options.ArrayOptions.Saving.StorageOptions
    if not getattr(value, "ndim", 0):
        return None
    stacked = any(str(getattr(key, "key", "")).startswith("periods.") for key in path)
    return options(chunk_byte_size=_CHUNK_BYTES, shard_axes=(0,) if stacked else None)
