"""The runs of a campaign: one without faults, and the command under the faults of a trial."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rnope_jax import model
from rnope_jax.checkpoint import saved_steps, saved_weights
from rnope_jax.run import Run

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "tests" / "end_to_end" / "tiny.py"

#: Steps of a run.
STEPS = 20

#: Seconds after which a command that nobody kills counts as hanging.
PATIENCE = 1800


@dataclass(frozen=True)
class Trial:
    """What came of one trial."""

    kind: str
    number: int
    loss: str | None
    """What was lost, if anything."""
    details: dict[str, Any] = field(default_factory=dict)


class Journal:
    """The trials so far, a line of JSON each: a campaign that was interrupted goes on."""

    def __init__(self, path: Path):
        self.path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self.trials = [Trial(**json.loads(line)) for line in lines]

    def missing(self, kind: str, count: int) -> list[int]:
        """Numbers of trials that were not made."""
        done = {trial.number for trial in self.trials if trial.kind == kind}
        return [number for number in range(count) if number not in done]

    def add(self, trial: Trial) -> None:
        """Keeps a trial."""
        self.trials.append(trial)
        with self.path.open("a") as file:
            file.write(json.dumps(asdict(trial)) + "\n")


@dataclass(frozen=True)
class Moment:
    """When a process is killed."""

    delay: float
    """Seconds after it was started, or after a phase began."""
    phase: tuple[str, str] | None = None
    """Thread and phase, as the trace has them."""
    occurrence: int = 1
    """Which of the times that the phase begins."""
    from_start: bool = False
    """Whether it is a Python of its own, which imports everything first."""
    compile_anew: bool = False
    """Whether it compiles what is in the cache."""


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    said: str
    doing: dict[str, str]
    """The last phase of each thread."""


class Campaign:
    """The runs of a campaign, in one directory.

    Args:
      work: the directory; what an earlier process has made in it is used.
      seed: of all choices.
    """

    def __init__(self, work: Path, seed: int):
        self.work, self.seed = work.absolute(), seed
        self.journal = Journal(self.work / "trials.jsonl")
        self.text, self.reference = self.work / "text", self.work / "reference"
        self.environment = {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(self.work / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
        self.child = [sys.executable, "-m", "benchmarks.faults.child"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.server = subprocess.Popen(self.child, cwd=ROOT, env=self.environment, text=True, **pipes)
        for left in (self.text, self.reference, self.work / "again"):
            shutil.rmtree(left, ignore_errors=True)
        write_text(self.text)
        #: Of each phase, how long it took in turn: at first with everything to be compiled.
        self.lengths: dict[tuple[str, str], list[float]] = defaultdict(list)
        self.seconds = [self._unharmed(name) for name in ("reference", "again")]
        if wrong := self.wrong(self.work / "again"):
            raise SystemExit(f"two runs without faults differ: {wrong}")
        shutil.rmtree(self.work / "again")

    def _unharmed(self, name: str) -> float:
        """Trains a Python of its own without faults; how many seconds that took."""
        began = time.monotonic()
        ended = self.train(self.work / name, Moment(PATIENCE, from_start=True))
        if ended.code:
            raise SystemExit(f"the run without faults failed: {ended.said}")
        since: dict[str, tuple[str, float]] = {}
        for thread, phase, at in phases(self.work / "trace"):
            if thread in since:
                before, start = since[thread]
                self.lengths[thread, before].append(at - start)
            since[thread] = phase, at
        return time.monotonic() - began

    def close(self) -> None:
        """Ends the process that forks."""
        self.server.stdin.close()
        self.server.wait()

    def train(self, run: Path, moment: Moment = Moment(PATIENCE), limit: int | None = None) -> Ended:
        """The training command, killed at a moment unless it ends before.

        Args:
          run: its directory.
          moment: of the kill.
          limit: bytes beyond which no file can grow.
        """
        log, trace = self.work / "log", self.work / "trace"
        trace.unlink(missing_ok=True)
        watching = threading.Event()
        if moment.from_start:
            command = [*self.child, str(trace), *self.arguments(run)]
            with log.open("w") as file:
                process = subprocess.Popen(command, cwd=ROOT, env=self.environment, stdout=file, stderr=file)
            killer = threading.Thread(target=_kill, args=(process.pid, moment, trace, watching))
            killer.start()
            # As below: it is not reaped while it may still be killed.
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            watching.set()
            killer.join()
            code = process.wait()
        else:
            job = {"arguments": self.arguments(run), "log": str(log), "trace": str(trace), "limit": limit}
            print(json.dumps({**job, "compile_anew": moment.compile_anew}), file=self.server.stdin, flush=True)
            pid = int(self.server.stdout.readline())
            killer = threading.Thread(target=_kill, args=(pid, moment, trace, watching))
            killer.start()
            code = int(self.server.stdout.readline())
            watching.set()
            killer.join()
            print("ended", file=self.server.stdin, flush=True)
        doing = {thread: phase for thread, phase, _ in phases(trace)}
        return Ended(code, log.read_text(errors="replace"), doing)

    def arguments(self, run: Path) -> list[str]:
        """Of train.py."""
        fixed = ["--evaluation.prompts", "--checkpoint.keep", str(STEPS)]
        return [str(CONFIG), "--data.corpus", str(self.text), "--run-dir", str(run), *fixed]

    def launch(self, run: Path, processes: int) -> subprocess.Popen:
        """Several processes."""
        command = [sys.executable, "-m", "rnope_jax.cli.main", "launch", "--processes", str(processes)]
        command += ["--", "train.py", *self.arguments(run)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(command, cwd=ROOT, env=self.environment, **pipes)

    def draw(self, kind: str, *numbers: int) -> random.Random:
        """The choices of one trial."""
        return random.Random(f"{self.seed} {kind} {numbers}")

    def copy(self, name: str, keep: int) -> Path:
        """The run without faults under another name, with its newest checkpoints."""
        shutil.rmtree(self.work / name, ignore_errors=True)
        run = shutil.copytree(self.reference, self.work / name, symlinks=True)
        for step in saved_steps(run / "checkpoints")[:-keep]:
            shutil.rmtree(run / "checkpoints" / str(step))
        return run

    def wrong(self, run: Path, step: int = STEPS, tolerance: float = 0.0) -> str | None:
        """How the parameters of a checkpoint differ from those of the run without faults; None if they do not."""
        found, expected = (parameters(path, step) for path in (run, self.reference))
        for name, value in expected.items():
            if not np.allclose(found[name], value, rtol=0, atol=tolerance, equal_nan=True):
                return f"step {step}: {name} differs by {np.abs(found[name] - value).max():.3g}"
        return None


def phases(trace: Path) -> list[tuple[str, str, float]]:
    """The lines of a trace: thread, phase, time."""
    lines = trace.read_text().splitlines() if trace.exists() else []
    return [(thread, phase, float(at)) for thread, phase, at in (line.split() for line in lines)]


def _kill(pid: int, moment: Moment, trace: Path, ended: threading.Event) -> None:
    """Kills a process at a moment."""
    if moment.phase is not None:
        wanted = " ".join(moment.phase) + " "
        while not ended.is_set():
            text = trace.read_text() if trace.exists() else ""
            if sum(line.startswith(wanted) for line in text.splitlines()) >= moment.occurrence:
                break
            time.sleep(0.001)
    if not ended.wait(moment.delay):
        os.kill(pid, signal.SIGKILL)


def write_text(directory: Path) -> None:
    """A corpus of words that follow each other by chance."""
    draw = random.Random(0)
    words = "the river runs to the sea and a stone lies in it while rain falls on every roof".split()  # noqa: SIM905
    directory.mkdir()
    for number in range(24):
        text = " ".join(draw.choice(words) for _ in range(400))
        (directory / f"{number}.txt").write_text(text + "\n")


def parameters(run: Path, step: int) -> dict[str, np.ndarray]:
    """All parameters of one checkpoint."""
    weights = saved_weights(Run(run).checkpoints, step)
    return {name: weights.read(name) for name in model.describe(Run(run).config.model)}


def losses(run: Path) -> dict[int, float]:
    """The loss of every step that was reported."""
    lines = map(json.loads, Run(run).metrics.read_text().splitlines())
    return {line["step"]: line["loss"] for line in lines if "loss" in line}
