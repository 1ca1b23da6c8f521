"""How a command ends when something is wrong."""

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

_NOTHING_TO_SAVE = "stopped; there was nothing to save, and the same command goes on from where this one began"


def end_when_asked() -> None:
    """Lets SIGTERM and SIGINT end the process with code 0 and a line: for as long as nothing is begun."""

    def end(_number: int, _frame: FrameType | None) -> None:
        os.write(1, f"{_NOTHING_TO_SAVE}\n".encode())  # not by print, which the signal may have interrupted
        os._exit(0)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)


def exit_code(command: Callable[[], int | None]) -> int:
    """Runs a command; a mistake of the user gives one message and code 2, never a traceback."""
    # Imported late: `--help` need not wait for it.
    from rnope_jax.errors import LostProcessError, Stopped, UserError

    try:
        code = command() or 0
        if not _abandoned():
            return code
        _leave_at_once(code)
    except Stopped:
        print(_NOTHING_TO_SAVE)
        _leave_at_once(0)
    except LostProcessError as error:
        print(f"error: {error}", file=sys.stderr)
        _leave_at_once(1)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno is None:
            raise
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}{error.strerror}", file=sys.stderr)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    # One process of several would wait for the others at an ordinary exit, who wait for it.
    jax = sys.modules.get("jax")
    if _abandoned() or (jax is not None and jax.distributed.is_initialized()):
        _leave_at_once(2)
    return 2


def _abandoned() -> bool:
    """Whether a thread is at work that nobody waits for."""
    signals = sys.modules.get("rnope_jax.training.signals")
    return signals is not None and signals.abandoned()


def _leave_at_once(code: int) -> None:
    """Ends the process without waiting for any thread."""
    jax = sys.modules.get("jax")
    if code == 0 and jax is not None and jax.distributed.is_initialized():
        # All of several processes end now. The first one must not be gone before the others have said so.
        with contextlib.suppress(RuntimeError):
            jax.distributed.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
