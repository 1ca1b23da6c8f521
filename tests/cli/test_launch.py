"""`rnope launch` with programs that do not train."""

import signal

from tests.end_to_end.commands import finish, signal_when, start

STUBBORN = """
import signal, sys, time
from pathlib import Path

signal.signal(signal.SIGTERM, signal.SIG_IGN)
Path(sys.argv[1]).touch()
time.sleep(60)
"""


def test_a_process_that_does_not_stop_is_killed_when_patience_is_over(tmp_path):
    program, begun = tmp_path / "stubborn.py", tmp_path / "begun"
    program.write_text(STUBBORN)
    options = ("--processes", 1, "--patience", 0.5)
    process = start(tmp_path, "-m", "rnope_jax.cli.main", "launch", *options, "--", program, begun)
    signal_when(process, begun.exists, signal.SIGTERM)
    ended = finish(process, timeout=30)
    assert ended.code == 1
    assert "not ended 0.5 s after the stop (--patience); killed" in ended.err
