"""Stopping on request: the first SIGTERM or SIGINT asks, the second one ends the process.

What is asked for is done at the next good moment: after a step, between two batches of an evaluation. Where
Python cannot look up for long (XLA compiles), the work is left to a thread, which is abandoned. Before
there is anything to save, a request ends the command on the spot.

Several processes must stop at the same point of the program, whichever of them were asked. While they
train, JAX's coordination service finds the step, of which all ask it. While one of them works alone, or
all compile, they tell each other now and then whether they were asked and whether they are done.
"""

import contextlib
import ctypes
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Generic, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from rnope_jax.errors import LostProcessError, Stopped

T = TypeVar("T")

#: Seconds between two looks at whether a stop was requested, and between two times that processes tell each other.
_LOOK, _TELL = 0.05, 0.2


class Task(Generic[T]):
    """Something that a thread does, so that this one can look up."""

    def __init__(self, action: Callable[[], T]):
        self._found: list[T] = []
        self._failed: list[BaseException] = []
        self.thread = threading.Thread(target=self._run, args=(action,), daemon=True)
        self.thread.start()

    def _run(self, action: Callable[[], T]) -> None:
        try:
            self._found.append(action())
        except BaseException as error:  # it belongs to whoever waits
            self._failed.append(error)

    def over(self, seconds: float) -> bool:
        """Waits for so long; whether it is done."""
        self.thread.join(seconds)
        return not self.thread.is_alive()

    def result(self) -> T:
        """What it gave, or its error, when it is done."""
        if self._failed:
            raise self._failed[0]
        return self._found[0]


class StopRequest:
    """Whether somebody asked the run to stop.

    Its truth must be asked for at the same points of the program by all processes.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._asked = 0
        self._agreed = False
        self._nothing_to_save = False

    def __bool__(self) -> bool:
        if jax.process_count() == 1:
            return self.signal is not None
        if not self._agreed:
            self._asked += 1
            self._agreed = multihost_utils.reached_preemption_sync_point(self._asked)
        return self._agreed

    @property
    def alone(self) -> bool:
        """Whether a stop was requested of a process that trains alone, and need ask no other. Costs nothing."""
        return jax.process_count() == 1 and self.signal is not None

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """While the block runs there is nothing to save: a request ends it where it stands.

        Several processes hear it while they wait for one of them (`or_end`), else after the block.

        Raises:
          Stopped: if a stop was or is requested.
        """
        self._nothing_to_save = True
        try:
            if self.alone:
                raise Stopped
            yield
            if self.alone:  # what was raised was lost on the way, in a finalizer say
                raise Stopped
        finally:
            self._nothing_to_save = False

    def unless(self, action: Callable[[], T], *, together: bool = False) -> T | None:
        """What an action gives; None if a stop was requested meanwhile, of any process.

        It runs in a thread of its own, which goes on until the process ends. All processes call this together, each
        with its own part or with nothing to do.

        Args:
          action: what is done. It must not need the other processes.
          together: it does need them; several processes then wait for it, and it must look up itself.
        """
        if jax.process_count() > 1:
            if together:
                return action()
            return None if self._agreed else self._among_several(action)
        task = Task(action)
        while not task.over(_LOOK):
            if self.alone:
                _abandoned.append(task.thread)
                return None
        found = task.result()
        return None if self.alone else found

    def _among_several(self, action: Callable[[], T]) -> T | None:
        task = Task(action)
        while True:
            over = task.over(_TELL)
            if over:
                task.result()  # an error is told at once; the others see that this process is gone
            asked, done = _told(self.signal is not None, over)
            if asked:
                self._agreed = True
                _abandoned.append(task.thread)
                return None
            if done:
                return task.result()

    def or_end(self, action: Callable[[], T]) -> T:
        """What an action gives, in a block that a request ends (`at_once`); several processes call it together.

        Raises:
          Stopped: if a stop was requested meanwhile, of any process.
        """
        if jax.process_count() == 1:
            return action()
        found = self.unless(lambda: (action(),))
        if found is None:
            raise Stopped
        return found[0]

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if self.signal is not None:
            os._exit(128 + number)
        self.signal = signal.Signals(number)
        if jax.process_count() > 1:
            _tell_jax(signal.SIGTERM)
        elif self._nothing_to_save:
            raise Stopped


def _told(asked: bool, done: bool) -> tuple[bool, bool]:
    """Whether any process was asked to stop, and whether all are done."""
    try:
        found = np.asarray(multihost_utils.process_allgather(np.array([asked, done])))
    except jax.errors.JaxRuntimeError as error:
        raise LostProcessError("another process was lost") from error
    return bool(found[:, 0].any()), bool(found[:, 1].all())


_abandoned: list[threading.Thread] = []


def abandoned() -> bool:
    """Whether a thread is still at work that nobody waits for; an ordinary exit would pull the ground from under it."""
    return any(thread.is_alive() for thread in _abandoned)


def _tell_jax(_number: int) -> None:
    """What JAX does on SIGTERM, once `handed_back` has found it."""


@contextlib.contextmanager
def handed_back() -> Iterator[None]:
    """Takes SIGTERM back from JAX, which handles it from when processes have joined, out of Python's reach.

    Its handler is kept, to be called by ours.
    """
    global _tell_jax
    here = signal.getsignal(signal.SIGTERM)
    found = ctypes.pythonapi.PyOS_getsig
    found.restype = ctypes.c_void_p
    before = found(signal.SIGTERM)
    yield
    now = found(signal.SIGTERM)
    if now and now != before:
        _tell_jax = ctypes.CFUNCTYPE(None, ctypes.c_int)(now)
        signal.signal(signal.SIGTERM, here)


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Yields a request that the two signals set, and gives the signals back afterwards."""
    request = StopRequest()
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, request._receive) for number in numbers]
    try:
        yield request
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
