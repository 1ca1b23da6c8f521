"""The commands, in this process or in one of their own."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from rnope_jax.cli.errors import exit_code
from tests.conftest import CHEAP

ROOT = Path(__file__).parents[2]
TINY = Path(__file__).parent / "tiny.py"


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


def train_main() -> Callable[[], None]:
    """The main function of train.py."""
    spec = importlib.util.spec_from_file_location("train", ROOT / "train.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def train_here(monkeypatch, capsys, *arguments: object) -> Ended:
    """Runs train.py in this process, for commands that end before they train."""
    monkeypatch.setattr(sys, "argv", ["train.py", *map(str, arguments)])
    main = train_main()
    capsys.readouterr()
    try:
        code = exit_code(main)
    except SystemExit as exit_:  # of the command line parser
        code = exit_.code
    return Ended(code, *capsys.readouterr())


def rnope_here(capsys, *arguments: object) -> Ended:
    """Runs `rnope` in this process."""
    from rnope_jax.cli.main import main

    capsys.readouterr()
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as exit_:
        return Ended(exit_.code, *capsys.readouterr())
    raise AssertionError("rnope did not exit")


#: Takes a limit and then becomes Python with the remaining arguments.
_LIMITED = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


def start(
    cache: Path,
    *arguments: object,
    file_limit: int | None = None,
    packages: Path | None = None,
    flags: tuple[str, ...] = CHEAP,
) -> subprocess.Popen:
    """Starts a Python command on one device; compiled functions are shared through `cache`.

    With `file_limit`, no file can grow beyond that many bytes. Modules in `packages` hide installed ones.
    """
    limited = () if file_limit is None else ("-c", _LIMITED, file_limit)
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": " ".join(flags),
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        **({} if packages is None else {"PYTHONPATH": str(packages)}),
    }
    if file_limit is not None:
        environment.pop("COVERAGE_PROCESS_CONFIG", None)  # what counts lines could not write its file either
    command = [sys.executable, *map(str, limited), *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=environment, **pipes)


def finish(process: subprocess.Popen, timeout: float = 600) -> Ended:
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return Ended(process.returncode, out, err)


def signal_when(process: subprocess.Popen, ready: Callable[[], bool], number: signal.Signals, delay: float = 0) -> None:
    """Signals a process `delay` seconds after `ready` comes true; it must not have ended by then."""
    deadline = time.monotonic() + 600
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"ended too early: {finish(process)}")
        time.sleep(0.002)
    time.sleep(delay)
    process.send_signal(number)
