"""The work of preparing: the parts of a plan that are missing, made by this process or by several."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

from rnope_jax.data import tokenizer
from rnope_jax.data.preparing import part
from rnope_jax.data.preparing.part import Settings, Span
from rnope_jax.data.preparing.plan import Input, Plan
from rnope_jax.data.preparing.tolerance import EXAMPLES, Tolerance, TooManyBad
from rnope_jax.data.tokenizer import Tokenizer
from rnope_jax.errors import UserError

#: Seconds to wait for a part that a worker of a killed process may still hold, and between two looks.
_PATIENCE, _LOOK = 20.0, 0.5


@dataclass(frozen=True)
class Progress:
    """How far the work is."""

    parts: int
    """Done, of those that are to be done here."""
    of: int
    tokens: int
    """Written since this process began."""
    seconds: float
    bad: int


@dataclass
class Work:
    """Some of the parts of a plan."""

    out: Path
    plan: Plan
    numbers: Sequence[int]
    tolerance: Tolerance
    progress: Callable[[Progress], None] = lambda progress: None
    bad: int = 0
    done: int = 0
    tokens: int = 0
    began: float = field(default_factory=time.monotonic)

    def run(self, workers: int) -> None:
        """Makes what is missing.

        Raises:
          UserError: if too many records are bad, a file cannot be read, a worker was killed, or another process
            is at work.
        """
        todo = []
        for number in self.numbers:
            if part.path(self.out, number).exists():
                self._finished(number)
            else:
                todo.append(number)
        if min(workers, len(todo)) > 1:
            self._in_processes(todo, min(workers, len(todo)))
            return
        made_with = tokenizer.load(self.out / "tokenizer")
        for number in todo:
            _make(self._job(number), made_with, self._count)
            self._finished(number)
            self._tell()

    def _job(self, number: int) -> "_Job":
        allowed = self.tolerance.number
        left = None if allowed is None else allowed - self.bad
        spans = self.plan.units[number]
        inputs = tuple(self.plan.inputs[span.input] for span in spans)
        return _Job(part.path(self.out, number), spans, inputs, self.plan.options.settings, left)

    def _count(self, tokens: int) -> None:
        self.tokens += tokens
        self._tell()

    def _tell(self) -> None:
        seconds = time.monotonic() - self.began
        self.progress(Progress(self.done, len(self.numbers), self.tokens, seconds, self.bad))

    def _finished(self, number: int) -> None:
        self.bad += part.index(part.path(self.out, number))["bad"]
        self.done += 1
        if self.tolerance.number is not None and self.bad > self.tolerance.number:
            raise TooManyBad(self.tolerance.number, list(islice(self._examples(), EXAMPLES)))

    def _examples(self) -> Iterator[str]:
        for number in self.numbers:
            directory = part.path(self.out, number)
            if directory.exists():
                for entry in part.quarantine(directory):
                    yield part.example(self.plan.units[number][entry["span"]], entry)

    def _in_processes(self, todo: Sequence[int], workers: int) -> None:
        # Not forked: a process that trains has threads.
        context = multiprocessing.get_context("spawn")
        counter = context.Value("q", 0)
        waiting, running = iter(todo), dict[Future[None], int]()
        pool = ProcessPoolExecutor(workers, context, _start, (self.out / "tokenizer", counter))
        try:
            while True:
                while len(running) < 2 * workers and (number := next(waiting, None)) is not None:
                    running[pool.submit(_work, self._job(number))] = number
                if not running:
                    break
                for future in wait(running, _LOOK, FIRST_COMPLETED).done:
                    number = running.pop(future)
                    future.result()
                    self._finished(number)
                self.tokens = counter.value
                self._tell()
        except BrokenProcessPool as error:
            raise UserError(
                "a worker process was killed, perhaps for want of memory; run the same command again, it goes on from "
                "there (fewer --workers need less)"
            ) from error
        except BaseException:
            for process in multiprocessing.active_children():
                process.terminate()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class _Job:
    """One part, as a worker is told of it."""

    directory: Path
    spans: tuple[Span, ...]
    inputs: tuple[Input, ...]
    """What it reads of, as the plan found them."""
    settings: Settings
    allowed: int | None

    def check(self) -> None:
        """Refuses what has changed while it was read."""
        for before in self.inputs:
            now = Input.of(Path(before.path))
            if now != before:
                raise UserError(
                    f"{before.path} changed while it was read (it had {before.size:,} bytes and has {now.size:,}); "
                    "begin again in another directory when nobody writes to it"
                )


def _make(job: _Job, made_with: Tokenizer, count: Callable[[int], None]) -> None:
    """Makes a part; waits for a while where a worker of a killed process still holds it."""
    began = time.monotonic()
    while not job.directory.exists():
        try:
            part.write(job.directory, job.spans, job.settings, made_with, job.allowed, count, job.check)
        except FileExistsError:
            return  # another process was faster, and made the same
        except BlockingIOError as error:
            if time.monotonic() - began > _PATIENCE:
                raise UserError(
                    f"another process prepares {job.directory.parent.parent}; wait for it, or give each one a --job"
                ) from error
            time.sleep(_LOOK)
        except OSError as error:
            raise UserError(
                f"{job.directory} cannot be written: {error.strerror or error}; what is done is kept, and the same "
                "command goes on from there"
            ) from error


#: What a worker process holds.
_held: tuple[Tokenizer, "Synchronized[int]"] | None = None


def _start(directory: Path, counter: "Synchronized[int]") -> None:
    global _held
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process hears it, and ends this one
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    _held = (tokenizer.load(directory), counter)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)  # it was killed, and nobody else would end this process

    threading.Thread(target=follow, daemon=True).start()


def _work(job: _Job) -> None:
    assert _held is not None
    made_with, counter = _held

    def count(tokens: int) -> None:
        with counter.get_lock():
            counter.value += tokens

    _make(job, made_with, count)
