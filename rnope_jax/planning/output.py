"""What libraries print to standard error by themselves, kept from the terminal."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def captured() -> Iterator[list[str]]:
    """Inside, standard error of the whole process goes to a list of lines, which is filled at the end.

    The compiler writes to the file descriptor, beside Python's `sys.stderr`.
    """
    lines: list[str] = []
    sys.stderr.flush()
    with tempfile.TemporaryFile() as file:
        before = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield lines
        finally:
            sys.stderr.flush()
            os.dup2(before, 2)
            os.close(before)
            file.seek(0)
            lines.extend(file.read().decode(errors="replace").splitlines())
