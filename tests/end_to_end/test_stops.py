"""Stops where a program cannot look up: while it is imported, and while one of several processes is stuck."""

import os
import signal
from pathlib import Path

from tests.end_to_end.commands import TINY, finish, signal_when, start
from tests.end_to_end.test_processes import members, wait_for

STUCK = Path(__file__).parent / "stuck.py"


def test_a_stop_while_the_program_is_imported(text, compiled, tmp_path):
    process = start(compiled, "train.py", TINY, "--data.corpus", text, "--run-dir", tmp_path / "run")
    status = Path(f"/proc/{process.pid}/status")

    def heeds() -> bool:
        caught = next(line for line in status.read_text().splitlines() if line.startswith("SigCgt"))
        return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)

    signal_when(process, heeds, signal.SIGTERM)
    ended = finish(process)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == "stopped; there was nothing to save, and the same command goes on from where this one began\n"
    assert not (tmp_path / "run").exists()


def test_several_processes_stop_while_they_compile(text, compiled, tmp_path):
    """One of them is asked."""
    arguments = ("compile", tmp_path / "stuck", TINY, "--data.corpus", text, "--run-dir", tmp_path / "run")
    process = start(compiled, "-m", "rnope_jax.cli.main", "launch", "--processes", 2, "--", STUCK, *arguments)
    wait_for(lambda: (tmp_path / "stuck0").exists() and (tmp_path / "stuck1").exists(), process)
    os.kill(members(process)[1], signal.SIGTERM)
    ended = finish(process, timeout=60)
    assert ended.code == 0, ended
    assert "stopped after step 0 of 20; the same command goes on from there" in ended.out
