"""A side that may fail, out of memory for instance, without ending the program that measures it."""

from collections.abc import Callable
from typing import Any

from benchmarks.sides import Side


class Failure(Exception):
    """What a side said, or that it ended without a word."""


class Guarded:
    """A `Side` whose failures can be caught; arguments as there."""

    def __init__(self, begin: Callable[..., Callable[..., Any]], *arguments: Any):
        self._side = Side(_guarded, begin, arguments)

    def measure(self, *asked: Any) -> Any:
        """One measurement.

        Raises:
          Failure: if it fails, or the preparation did.
        """
        try:
            failed, answer = self._side.measure(*asked)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self._side.process.join(10)
            raise Failure(f"the process ended with code {self._side.process.exitcode}") from None
        if failed:
            raise Failure(answer)
        return answer

    def close(self) -> None:
        """Ends the process."""
        try:
            self._side.close()
        except BrokenPipeError:
            self._side.process.join()


def _guarded(begin: Callable[..., Callable[..., Any]], arguments: tuple) -> Callable[..., Any]:
    try:
        run = begin(*arguments)
    except Exception as error:
        said = _said(error)
        return lambda *_: (True, said)

    def measure(*asked: Any) -> tuple[bool, Any]:
        try:
            return False, run(*asked)
        except Exception as error:
            return True, _said(error)

    return measure


def _said(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:300]}"
