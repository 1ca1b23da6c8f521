"""Stopping on request: the first SIGTERM or SIGINT asks, the second one ends the process.

What is asked for is done at the next good moment: after a step, between two batches of an evaluation. Where
Python cannot look up for long (XLA compiles), the work is left to a thread, which is abandoned. Before
there is anything to save, a request ends the command on the spot.

Several processes must stop after the same step. There a SIGTERM to any of them is taken by JAX, whose
coordination service finds the step; all ask it at the same points of the program.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TypeVar

import jax
from jax.experimental import multihost_utils

from rnope_jax.errors import Stopped

T = TypeVar("T")

#: Seconds between two looks at whether a stop was requested.
_LOOK = 0.05


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

        In a run of several processes it is heard after the block.

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

    def unless(self, action: Callable[[], T]) -> T | None:
        """What an action gives; None if a stop was requested meanwhile.

        It runs in a thread of its own, which goes on until the process ends; in a run of several processes it is
        waited for, because the others take part in it.
        """
        if jax.process_count() > 1:
            return action()
        found: list[T] = []
        failed: list[BaseException] = []

        def run() -> None:
            try:
                found.append(action())
            except BaseException as error:  # it belongs to whoever waits
                failed.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        while thread.is_alive() and not self.alone:
            thread.join(_LOOK)
        if thread.is_alive():
            _abandoned.append(thread)
            return None
        if failed:
            raise failed[0]
        return None if self.alone else found[0]

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if self.signal is not None:
            os._exit(128 + number)
        self.signal = signal.Signals(number)
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)
        elif self._nothing_to_save:
            raise Stopped


_abandoned: list[threading.Thread] = []


def abandoned() -> bool:
    """Whether a thread is still at work that nobody waits for; an ordinary exit would pull the ground from under it."""
    return any(thread.is_alive() for thread in _abandoned)


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Yields a request that the two signals set, and gives the signals back afterwards."""
    request = StopRequest()
    numbers = (signal.SIGTERM, signal.SIGINT) if jax.process_count() == 1 else (signal.SIGINT,)
    before = [signal.signal(number, request._receive) for number in numbers]
    try:
        yield request
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
