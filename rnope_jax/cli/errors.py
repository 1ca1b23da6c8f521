"""How a command ends when something is wrong."""

import os
import sys
from collections.abc import Callable


def exit_code(command: Callable[[], int | None]) -> int:
    """Runs a command; a mistake of the user gives one message and code 2, never a traceback."""
    # Imported late: `--help` need not wait for it.
    from rnope_jax.errors import UserError

    try:
        return command() or 0
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
    _leave_at_once()
    return 2


def _leave_at_once() -> None:
    """Ends one process of several: at an ordinary exit it would wait for the others, who wait for it."""
    jax = sys.modules.get("jax")
    if jax is not None and jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(2)
