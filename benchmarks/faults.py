"""A campaign of faults against training runs: kills, damaged files, full disks, other numbers of processes.

    python -m benchmarks.faults [--minutes 10] [--seed 0]

A tiny run is trained once without faults. Then, in trials whose every choice follows from the seed, the
same command meets faults in child processes, and what it ends with is compared with the run that met
none. A loss is a wrong value of a parameter, or a checkpoint that was whole and is gone.

Processes are forked from one that has imported everything and started nothing, which saves most of the
time of a short run. The moments of kills are drawn, but what a process is doing at that moment is
the machine's affair: trials are independent, not repeatable to the instruction.
"""

import argparse
import contextlib
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import record
from rnope_jax import model
from rnope_jax.checkpoint import integrity, saved_steps, saved_weights
from rnope_jax.errors import UserError
from rnope_jax.run import Run
from tests.checkpoint.faults import delete, flip_bit, truncate

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "tests" / "end_to_end" / "tiny.py"

#: Several processes compute sums in another order; parameters after these few steps agree to this.
TOLERANCE = 2e-4


@dataclass
class Count:
    """What came of the trials of one kind."""

    what: str
    trials: int = 0
    recovered: int = 0
    losses: int = 0
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def note(self, loss: str | None) -> None:
        """Counts a trial; `loss` tells what was lost, if anything."""
        self.trials += 1
        if loss is None:
            self.recovered += 1
        else:
            self.losses += 1
            self.notes.append(loss)


class Campaign:
    """The runs of a campaign, in one directory."""

    def __init__(self, work: Path, seed: int):
        self.work, self.seed = work, seed
        self.text = work / "text"
        self.cache = work / "compiled"
        self.reference = work / "reference"
        write_text(self.text)
        self.environment = {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(self.cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
        command, pipes = [sys.executable, "-c", SERVER], {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.server = subprocess.Popen(command, cwd=ROOT, env=self.environment, text=True, **pipes)
        code, out = self.train(self.reference)
        if code:
            raise SystemExit(f"the run without faults failed: {out}")
        self.seconds = self._length()
        self.expected = parameters(self.reference, 20)

    def _length(self) -> float:
        """Seconds that a run takes when everything is compiled."""
        began = time.perf_counter()
        self.train(self.work / "again")
        shutil.rmtree(self.work / "again")
        return time.perf_counter() - began

    def train(self, run: Path, *, delay: float = 300, limit: int | None = None) -> tuple[int, str]:
        """The training command: its exit code and what it said. It is killed after `delay` seconds."""
        log = self.work / "log"
        job = {"arguments": self.arguments(run), "log": str(log), "limit": limit}
        print(json.dumps(job), file=self.server.stdin, flush=True)
        pid = int(self.server.stdout.readline())
        timer = threading.Timer(delay, os.kill, (pid, signal.SIGKILL))  # it is reaped after it answers
        timer.start()
        code = int(self.server.stdout.readline())
        timer.cancel()
        timer.join()
        print("ended", file=self.server.stdin, flush=True)
        return code, log.read_text(errors="replace")

    def arguments(self, run: Path) -> list[str]:
        """Of train.py."""
        fixed = ["--evaluation.prompts", "--checkpoint.keep", "4"]
        return [str(CONFIG), "--data.corpus", str(self.text), "--run-dir", str(run), *fixed]

    def launch(self, run: Path, processes: int) -> subprocess.Popen:
        """Several processes."""
        command = [sys.executable, "-m", "rnope_jax.cli.main", "launch", "--processes", str(processes)]
        command += ["--", "train.py", *self.arguments(run)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(command, cwd=ROOT, env=self.environment, **pipes)

    def draw(self, kind: str, trial: int) -> random.Random:
        """The choices of one trial."""
        return random.Random(f"{self.seed} {kind} {trial}")

    def copy(self, name: str) -> Path:
        """The run without faults under another name."""
        return shutil.copytree(self.reference, self.work / name, symlinks=True)

    def wrong(self, run: Path, tolerance: float = 0.0) -> str | None:
        """How the last parameters of a run differ from those of the run without faults; None if they do not."""
        return different(parameters(run, 20), self.expected, tolerance)


#: Forks a process for every job it reads, and tells its number and how it ended. The process stays
#: unreaped until that was heard, so that its number is not given to another one that would be killed.
SERVER = """
import json, os, resource, sys
sys.path.insert(0, os.getcwd())
import matplotlib.pyplot, tensorboardX, train
from rnope_jax.cli.errors import exit_code

for line in sys.stdin:
    job = json.loads(line)
    pid = os.fork()
    if pid == 0:
        log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        if job["limit"] is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (job["limit"],) * 2)
        sys.argv = ["train.py", *job["arguments"]]
        sys.exit(exit_code(train.main))
    print(pid, flush=True)
    ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    print(ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status, flush=True)
    sys.stdin.readline()
    os.waitpid(pid, 0)
"""


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


def different(found: dict[str, np.ndarray], expected: dict[str, np.ndarray], tolerance: float) -> str | None:
    """The first parameter that is not what it should be."""
    for name, value in expected.items():
        if not np.allclose(found[name], value, rtol=0, atol=tolerance, equal_nan=True):
            return f"{name} differs by {np.abs(found[name] - value).max():.3g}"
    return None


def kills(campaign: Campaign, until: float) -> Count:
    """Kill -9 at any moment of a run, again and again, until a run ends; its parameters must be bit for bit the same.

    Every kill is a trial: the next command must go on from the newest checkpoint there was, or a newer one.
    """
    count = Count("kill -9 at a random moment")
    run = campaign.work / "killed"
    while time.monotonic() < until:
        shutil.rmtree(run, ignore_errors=True)
        waiting = 0  # kills that are judged when the run has ended
        while True:
            before = max(saved_steps(run / "checkpoints"), default=0)
            delay = campaign.draw("kill", count.trials + waiting).uniform(0, 1.1 * campaign.seconds)
            if time.monotonic() > until:
                delay = 300  # the last of the campaign may end
            code, out = campaign.train(run, delay=delay)
            after = max(saved_steps(run / "checkpoints"), default=0)
            if after < before:
                count.note(f"checkpoint {before} was gone after a kill")
            if code == 0:
                break
            if code != -signal.SIGKILL:
                count.note(f"ended with code {code}: {out[-300:]}")
                break
            waiting += 1
        loss = campaign.wrong(run) if code == 0 else "no end"
        for _ in range(waiting):
            count.note(loss)
    return count


FAULTS = {"bit flip": flip_bit, "truncation": truncate, "deleted file": delete}


def damaged_files(campaign: Campaign, kind: str, trials: int) -> Count:
    """A fault in a random file of the newest checkpoint, which is then read by the program's own reader.

    It must be found, and the checkpoint before be read instead, bit for bit. Where the integrity file is
    what was deleted, the newest must be read, bit for bit.
    """
    count = Count(f"{kind} in a checkpoint, then read")
    steps = saved_steps(campaign.reference / "checkpoints")
    newest, before = steps[-1], steps[-2]
    expected = {step: parameters(campaign.reference, step) for step in (newest, before)}
    run = campaign.copy("damaged")
    checkpoint = run / "checkpoints" / str(newest)
    files = [path for path in sorted(checkpoint.rglob("*")) if path.is_file()]
    for trial in range(trials):
        draw = campaign.draw(kind, trial)
        file = draw.choice(files)
        whole = file.read_bytes()
        FAULTS[kind](file, draw)
        unsealed = not integrity.is_sealed(checkpoint)
        try:
            weights = saved_weights(run / "checkpoints", report=lambda line: None)
            found = {name: weights.read(name) for name in expected[newest]}
            right = newest if unsealed else before
            loss = None if weights.step == right else f"{file.name}: step {weights.step} was read, not {right}"
            loss = loss or different(found, expected[right], 0.0)
        except UserError as error:
            loss = f"{file.name}: {error}"
        count.note(loss)
        file.write_bytes(whole)
    shutil.rmtree(run)
    return count


def in_time(trials: int, until: float) -> Iterator[int]:
    """The numbers of trials, as many as begin before the time is over."""
    return itertools.takewhile(lambda _: time.monotonic() <= until, range(trials))


def damaged_runs(campaign: Campaign, trials: int, until: float) -> Count:
    """Faults in one or two of the newest checkpoints; then the whole command, which must end as without."""
    count = Count("damage to one or two checkpoints, then trained on")
    for trial in in_time(trials, until):
        draw = campaign.draw("run", trial)
        run = campaign.copy("resumed")
        steps = saved_steps(run / "checkpoints")
        hit = steps[-draw.randint(1, 2) :]
        for step in hit:
            files = [path for path in sorted((run / "checkpoints" / str(step)).rglob("*")) if path.is_file()]
            files = [path for path in files if path.name != integrity.NAME]
            FAULTS[draw.choice(list(FAULTS))](draw.choice(files), draw)
        code, out = campaign.train(run)
        loss = campaign.wrong(run) if code == 0 else f"code {code}: {out[-300:]}"
        if not all((run / "checkpoints" / f"damaged-{step}").is_dir() for step in hit):
            loss = loss or f"{hit} were not set aside"
        count.note(loss)
        shutil.rmtree(run)
    return count


@contextlib.contextmanager
def small_disk(campaign: Campaign, run: Path, room: int) -> Iterator[tuple[Path, dict[str, int]]]:
    """A run on a file system with little room; where none can be mounted, files cannot grow beyond it."""
    where = campaign.work / "disk"
    where.mkdir()
    size = sum(-(-path.stat().st_size // 4096) * 4096 for path in run.rglob("*") if path.is_file()) + 2**20
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size + room}", "tmpfs", str(where)]
    mounted = shutil.which("mount") and subprocess.run(mount, capture_output=True).returncode == 0
    try:
        shutil.copytree(run, where / "run")
        if mounted:  # what is left is exactly `room`
            left = shutil.disk_usage(where).free - room
            (where / "ballast").write_bytes(bytes(max(left, 0)))
        yield where / "run", {} if mounted else {"limit": room}
    finally:
        if mounted:
            subprocess.run(["umount", str(where)], check=True)
        shutil.rmtree(where)


def full_disks(campaign: Campaign, trials: int, until: float) -> Count:
    """A disk that fills up after a random number of bytes; then there is room, and the command must end as without."""
    count = Count("full disk")
    for trial in in_time(trials, until):
        draw = campaign.draw("disk", trial)
        half = campaign.copy("half")
        for step in saved_steps(half / "checkpoints")[1:]:
            shutil.rmtree(half / "checkpoints" / str(step))
        first = saved_steps(half / "checkpoints")
        with small_disk(campaign, half, draw.randrange(30_000, 400_000)) as (run, options):
            code, out = campaign.train(run, **options)
            loss = None if code in (0, 2) else f"code {code}: {out[-300:]}"
            if code == 2:
                gone = [step for step in first if step not in saved_steps(run / "checkpoints")]
                loss = loss or (f"checkpoints {gone} were gone" if gone else None)
                shutil.rmtree(half)
                shutil.copytree(run, half)  # onto a disk with room
                code, out = campaign.train(half)
                loss = loss or (campaign.wrong(half) if code == 0 else f"code {code}: {out[-300:]}")
            else:
                loss = loss or campaign.wrong(run)
        count.note(loss)
        shutil.rmtree(half)
    return count


def other_processes(campaign: Campaign, trials: int, until: float) -> Count:
    """Kill -9 of two processes in the middle; one goes on, is killed, and two end; equal up to rounding."""
    count = Count("kill -9 and another number of processes (2, 1, 2)")
    for trial in in_time(trials, until):
        draw, run = campaign.draw("processes", trial), campaign.work / "several"
        loss, wanted = None, 0
        for processes in (2, 1):
            wanted += draw.randint(2, 6)
            process = campaign.launch(run, processes)
            deadline = time.monotonic() + 120
            while max(saved_steps(run / "checkpoints"), default=0) < wanted and process.poll() is None:
                time.sleep(0.01)
                if time.monotonic() > deadline:
                    loss = f"{processes} processes did not come to step {wanted}"
                    break
            kill_all(process)
            process.communicate()
            wanted = max(saved_steps(run / "checkpoints"), default=0)
        process = campaign.launch(run, 2)
        out, code = process.communicate()[0], process.returncode
        loss = loss or (campaign.wrong(run, TOLERANCE) if code == 0 else f"code {code}: {out[-300:]}")
        count.note(loss)
        shutil.rmtree(run)
    return count


def kill_all(launcher: Any) -> None:
    """Kills a launcher and its processes, which are in groups of their own."""
    members = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, IndexError, ValueError):
            parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            if parent == launcher.pid:
                members.append(int(entry.name))
    for pid in [launcher.pid, *members]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def hashing(work: Path) -> dict[str, float]:
    """GB/s at which checkpoints are hashed, from memory: one thread, and as many as are used."""
    step = work / "1"
    step.mkdir()
    block, used, found = os.urandom(2**24), integrity._THREADS, {}
    for number in range(4):
        (step / str(number)).write_bytes(block * 8)
    size = 4 * 8 * 2**24 / 1e9
    for name, threads in (("one_thread", 1), ("threads", used)):
        integrity._THREADS = threads
        integrity.seal(step)
        began, cpu = time.perf_counter(), time.process_time()
        integrity.damage(step)
        found[f"{name}_gb_per_s"] = round(size / (time.perf_counter() - began), 2)
        found[f"{name}_gb_per_cpu_s"] = round(size / (time.process_time() - cpu), 2)
    integrity._THREADS = used
    shutil.rmtree(step)
    return {**found, "threads": used}


def main() -> None:
    """Runs the campaign, prints the table and writes results/faults.json."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    began = time.monotonic()
    end = began + 60 * arguments.minutes
    work = Path(tempfile.mkdtemp(prefix="faults"))
    try:
        campaign = Campaign(work, arguments.seed)
        left = end - time.monotonic()
        counts = []
        for part in (
            lambda: damaged_files(campaign, "bit flip", 300),
            lambda: damaged_files(campaign, "truncation", 100),
            lambda: damaged_files(campaign, "deleted file", 100),
            lambda: damaged_runs(campaign, 8, end - 0.85 * left),
            lambda: full_disks(campaign, 8, end - 0.7 * left),
            lambda: other_processes(campaign, 2, end - 0.5 * left),
            lambda: kills(campaign, end),
        ):
            since = time.monotonic()
            counts.append(part())
            counts[-1].seconds = round(time.monotonic() - since, 1)
            print(f"{counts[-1].what}: {counts[-1]}", flush=True)
        found = {
            "seed": arguments.seed,
            "minutes": round((time.monotonic() - began) / 60, 1),
            "seconds_of_a_run": round(campaign.seconds, 1),
            "hashing": hashing(work),
            "trials": sum(count.trials for count in counts),
            "losses": sum(count.losses for count in counts),
            "kinds": [vars(count) for count in counts],
        }
        campaign.server.stdin.close()
        campaign.server.wait()
    finally:
        shutil.rmtree(work)
    print(record("faults", found).read_text())
    print("| fault | trials | recovered | losses |\n| --- | --- | --- | --- |")
    for count in counts:
        print(f"| {count.what} | {count.trials} | {count.recovered} | {count.losses} |")


if __name__ == "__main__":
    main()
