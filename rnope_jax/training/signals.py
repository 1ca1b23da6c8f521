"""Stopping on request: the first SIGTERM or SIGINT asks, the second one ends the process.

Several processes must stop after the same step. There a SIGTERM to any of them is taken by JAX, whose
coordination service finds the step; all ask it at the same points of the program.
"""

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType

import jax
from jax.experimental import multihost_utils


class StopRequest:
    """Whether somebody asked the run to stop.

    Its truth must be asked for at the same points of the program by all processes.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._asked = 0
        self._agreed = False

    def __bool__(self) -> bool:
        if jax.process_count() == 1:
            return self.signal is not None
        if not self._agreed:
            self._asked += 1
            self._agreed = multihost_utils.reached_preemption_sync_point(self._asked)
        return self._agreed

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if self.signal is not None:
            os._exit(128 + number)
        self.signal = signal.Signals(number)
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)


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
