"""`rnope launch` by itself, with a program that takes no time; with training it is in end_to_end/test_processes.py."""

import os
import signal
import threading
import time

import pytest

from rnope_jax.cli.launch import launch
from rnope_jax.errors import UserError
from tests.end_to_end.commands import finish, signal_when, start

#: Says that it is there, waits until all are, and ends as it is told or when it is asked to.
PROGRAM = """
import os, signal, sys, time
from pathlib import Path

def stop(*_):
    (there / f"stopped-{index}").touch()
    sys.exit(3 if how == ["fails"] else 0)

there, how = Path(sys.argv[1]), sys.argv[2:]
index, count = os.environ.get("JAX_PROCESS_ID", "0"), int(os.environ.get("JAX_NUM_PROCESSES", "1"))
signal.signal(signal.SIGTERM, stop)
(there / f"start-{os.getpid()}").touch()
(there / f"{index} of {count}").touch()
while not all((there / f"{i} of {count}").exists() for i in range(count)):
    time.sleep(0.01)
if how == ["mistake", index]:
    print("a mistake", file=sys.stderr)
    sys.exit(2)
if how == ["killed", index]:
    os.kill(os.getpid(), signal.SIGKILL)
time.sleep(600)
"""

STUBBORN = """
import signal, sys, time
from pathlib import Path

signal.signal(signal.SIGTERM, signal.SIG_IGN)
Path(sys.argv[1]).touch()
time.sleep(60)
"""


@pytest.fixture
def run(tmp_path):
    """Launches the program; gives the code and the process ids."""
    program, there = tmp_path / "program.py", tmp_path / "there"
    program.write_text(PROGRAM)
    there.mkdir()

    def go(*how: str, processes: int = 2, **options: int) -> tuple[int, list[int]]:
        code = launch((str(program), str(there), *how), processes=processes, **options)
        return code, [int(path.name.removeprefix("start-")) for path in there.glob("start-*")]

    return go


def test_without_restarts_a_killed_process_is_a_failure_and_the_others_are_ended(run, capfd):
    code, members = run("killed", "0")
    assert code == 1
    assert capfd.readouterr().err == "launch: process 0 ended with code -9\n"
    assert len(members) == 2
    for member in members:
        with pytest.raises(ProcessLookupError):
            os.kill(member, 0)


def test_each_failure_takes_a_restart_and_a_process(run, capfd):
    code, members = run("killed", "0", processes=3, restarts=2)
    assert code == 1
    lines = capfd.readouterr().err.splitlines()
    assert [line for line in lines if "again" in line] == [
        f"launch: starting again with {count} processes" for count in (2, 1)
    ]
    assert len(lines) == 5
    assert len(members) == 3 + 2 + 1


@pytest.mark.parametrize("whose", ["0", "1"])
def test_a_mistake_is_told_and_not_tried_again(run, capfd, whose):
    code, members = run("mistake", whose, restarts=3)
    assert code == 2
    assert capfd.readouterr().err == f"a mistake\nlaunch: process {whose} ended with code 2\n"
    assert len(members) == 2


@pytest.mark.parametrize(("how", "expected"), [((), 0), (("fails",), 1)], ids=["saved", "failed"])
def test_a_stop_is_a_stop_of_all_and_nothing_starts_again(run, tmp_path, how, expected):
    there, before = tmp_path / "there", signal.getsignal(signal.SIGTERM)

    def stop_when_all_are_there():
        while len(list(there.glob("* of 2"))) < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop_when_all_are_there)
    thread.start()
    code, members = run(*how, restarts=2)
    thread.join()
    assert code == expected
    assert len(members) == 2
    stopped = {path.name for path in there.glob("stopped-*")}
    assert stopped == {"stopped-0", "stopped-1"} or (how and stopped)
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_process_that_does_not_stop_is_killed_when_patience_is_over(tmp_path):
    program, begun = tmp_path / "stubborn.py", tmp_path / "begun"
    program.write_text(STUBBORN)
    options = ("--processes", 1, "--patience", 0.5)
    process = start(tmp_path, "-m", "rnope_jax.cli.main", "launch", *options, "--", program, begun)
    signal_when(process, begun.exists, signal.SIGTERM)
    ended = finish(process, timeout=30)
    assert ended.code == 1
    assert "not ended 0.5 s after the stop (--patience); killed" in ended.err


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((__file__,), {"processes": 0}, "processes = 0: must be at least 1"),
        ((__file__,), {"restarts": -1}, "restarts = -1: must be 0 or more"),
        ((__file__,), {"patience": float("nan")}, "patience = nan: must be a number of seconds"),
        ((), {}, "give the program to run"),
        (("nowhere.py",), {}, "give the program to run"),
    ],
)
def test_mistakes_start_nothing(arguments, options, message):
    with pytest.raises(UserError, match=message):
        launch(arguments, **{"processes": 1, **options})
