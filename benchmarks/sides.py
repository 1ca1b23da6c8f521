"""Two programs measured in turn: each side in a process of its own, which waits while others are measured."""

import multiprocessing
import statistics
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any


class Side:
    """A process that measures when it is told to.

    Args:
      begin: called in the process with `arguments`; returns what `measure` calls there.
      arguments: for it.
    """

    def __init__(self, begin: Callable[..., Callable[..., Any]], *arguments: Any):
        context = multiprocessing.get_context("spawn")
        self.connection, there = context.Pipe()
        self.process = context.Process(target=_serve, args=(there, begin, arguments), daemon=True)
        self.process.start()

    def measure(self, *asked: Any) -> Any:
        """One measurement."""
        self.connection.send(asked)
        return self.connection.recv()

    def close(self) -> None:
        """Ends the process."""
        self.connection.send(None)
        self.process.join()


def ratio(theirs: list[float], ours: list[float]) -> float:
    """The median of the ratios within a round, so that a busy minute touches both sides."""
    return round(statistics.median(a / b for a, b in zip(theirs, ours, strict=True)), 2)


def _serve(connection: Connection, begin: Callable[..., Callable[..., Any]], arguments: tuple) -> None:
    run = begin(*arguments)
    while (asked := connection.recv()) is not None:
        connection.send(run(*asked))
