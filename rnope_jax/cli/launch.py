"""`rnope launch`: several processes on this machine that train one model, and start again when one dies."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType
from typing import IO, Annotated

import tyro
from tyro.conf import Positional

#: Exit code of a command whose input is at fault.
_MISTAKE = 2

#: Bytes of what a failed process said last.
_TOLD = 4000


def launch(
    arguments: Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="TRAIN.PY CONFIG ...")]],
    /,
    *,
    processes: int,
    restarts: int = 0,
    patience: float = 1800,
) -> int:
    """Train with several processes on this machine: rnope launch --processes 4 -- train.py configs/quickstart.py

    When a process dies, the others are ended, for nothing can go on without its part. With --restarts,
    training is started again from the newest checkpoint on the number of processes that is left, or
    the next smaller one over which the batch can be divided.

    Args:
      arguments: what to run with this Python: train.py and its arguments.
      processes: how many.
      restarts: how often to start again after a failure.
      patience: seconds that processes have to save and end after a stop was asked for; then they are killed.
    """
    from rnope_jax.errors import UserError

    if processes < 1:
        raise UserError(f"processes = {processes}: must be at least 1")
    if restarts < 0:
        raise UserError(f"restarts = {restarts}: must be 0 or more")
    if not patience > 0:
        raise UserError(f"patience = {patience}: must be a number of seconds, more than 0")
    if not arguments or not Path(arguments[0]).is_file():
        raise UserError("give the program to run and its arguments: rnope launch --processes 4 -- train.py CONFIG")
    count, first = processes, True
    while True:
        group = _Group(arguments, count, patience)
        code = group.run()
        if code == 0 or (code == _MISTAKE and (first or count == 1)):
            return code
        if code != _MISTAKE:
            if restarts == 0 or group.stopping:
                return 1
            restarts -= 1
        # A count that does not divide the batch is no failure, but the next smaller one is tried.
        count, first = max(count - 1, 1), False
        print(f"launch: starting again with {count} processes", file=sys.stderr, flush=True)


class _Group:
    """Processes that live and die together."""

    def __init__(self, arguments: tuple[str, ...], count: int, patience: float):
        self.arguments, self.count, self.patience = arguments, count, patience
        self.stopping = False
        self.members: list[subprocess.Popen] = []
        self.logs: list[IO[bytes] | None] = []

    def _start(self) -> None:
        from rnope_jax.training.processes import ADDRESS, COUNT, INDEX

        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        for index in range(self.count):
            environment = dict(os.environ)
            if self.count > 1:
                environment |= {ADDRESS: address, COUNT: str(self.count), INDEX: str(index)}
            command = [sys.executable, *self.arguments]
            # The first process speaks for all; what another says is shown if it is the one that fails.
            log = tempfile.TemporaryFile() if index else None  # noqa: SIM115 (it lives as long as the process)
            self.logs.append(log)
            # In groups of their own: Ctrl-C on the terminal comes through us, once.
            member = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
            self.members.append(member)
            if self.stopping:  # asked for between the two lines above
                member.send_signal(signal.SIGTERM)

    def run(self) -> int:
        """Starts them and waits for the end; the exit code of the first that failed, or 0."""
        before = [signal.signal(number, self._stop) for number in (signal.SIGTERM, signal.SIGINT)]
        try:
            self._start()
            return self._wait()
        finally:
            for number, handler in zip((signal.SIGTERM, signal.SIGINT), before, strict=True):
                signal.signal(number, handler)
            for member in self.members:
                member.kill()
                member.wait()
            for log in self.logs:
                if log:
                    log.close()

    def _wait(self) -> int:
        deadline = None
        while True:
            codes = [member.poll() for member in self.members]
            failed = [code for code in codes if code]
            if failed or all(code == 0 for code in codes):
                if failed:
                    # Of several, the one with a message: the others may have failed because it did.
                    index = min((i for i, code in enumerate(codes) if code), key=lambda i: codes[i] != _MISTAKE)
                    self._tell(index, codes[index])
                return _MISTAKE if _MISTAKE in failed else next(iter(failed), 0)
            if self.stopping and deadline is None:
                deadline = time.monotonic() + self.patience
            if deadline is not None and time.monotonic() > deadline:
                text = f"launch: not ended {self.patience:g} s after the stop (--patience); killed"
                print(text, file=sys.stderr, flush=True)
                return 1
            time.sleep(0.05)

    def _tell(self, index: int, code: int | None) -> None:
        """Says which process failed, and what it said last."""
        if log := self.logs[index]:
            log.seek(max(log.seek(0, os.SEEK_END) - _TOLD, 0))
            sys.stderr.write(log.read().decode(errors="replace"))
        print(f"launch: process {index} ended with code {code}", file=sys.stderr, flush=True)

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        """Asks the processes to stop, which agree on the step; a second time ends them at once."""
        if self.stopping:
            for member in self.members:
                member.kill()
            os._exit(128 + number)
        self.stopping = True
        for member in self.members:
            if member.poll() is None:
                member.send_signal(signal.SIGTERM)
