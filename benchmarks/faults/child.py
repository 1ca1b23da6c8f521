"""What a trial runs: the training command, which tells of every phase as it begins.

    python -m benchmarks.faults.child TRACE ARGUMENTS...    as `python train.py ARGUMENTS...`
    python -m benchmarks.faults.child                       forks such a process for every job that it reads

Forked processes have imported everything already, which saves most of the time of a short run.

TRACE gets a line for each phase: the thread ("main", or "disk" for what follows a save), the phase, and the
time. A line is one write, so what is there after a kill is what had begun.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

#: What the main thread does, in the order of a run.
PHASES = ("imports", "start", "prepare", "restore", "compile", "warm-up", "train", "evaluate", "save", "close")


class Phases:
    """Tells what a process is doing."""

    def __init__(self, trace: str):
        self._file = os.open(trace, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._now = "imports"

    def begin(self, phase: str, thread: str = "main") -> None:
        """From now on, until something else begins."""
        if thread == "main":
            self._now = phase
        os.write(self._file, f"{thread} {phase} {time.monotonic():.6f}\n".encode())

    def told(self, phase: str, action: Callable[..., Any]) -> Callable[..., Any]:
        """A function that is a phase of its own; afterwards goes on what was before."""

        def traced(*args: Any, **options: Any) -> Any:
            before = self._now
            self.begin(phase)
            try:
                return action(*args, **options)
            finally:
                self.begin(before)

        return traced


def run(trace: str, arguments: list[str], *, compile_anew: bool = False) -> int:
    """The training command, and its exit code."""
    phases = Phases(trace)
    phases.begin("imports")
    import jax

    import train
    from rnope_jax import data
    from rnope_jax.checkpoint import Checkpoints, integrity
    from rnope_jax.cli.errors import exit_code
    from rnope_jax.training.loop import Trainer

    if compile_anew:
        jax.config.update("jax_enable_compilation_cache", False)
    phases.begin("start")
    for phase, owner, name in (
        ("prepare", data, "prepare"),
        ("restore", train, "restore_or_init"),
        ("compile", Trainer, "_compile"),
        ("evaluate", Trainer, "_evaluate"),
        ("save", Trainer, "save"),
        ("close", train, "close_run"),
    ):
        setattr(owner, name, phases.told(phase, getattr(owner, name)))
    compiled, settle = Trainer._compile, Trainer._settle

    def of_step(trainer: Any, index: int, step: int) -> str:
        """Steps of a stage are its warm-up as long as the learning rate rises."""
        stage, first = trainer.config.stages[index], trainer.config.first_step(index)
        return "warm-up" if step - first < stage.schedule.warmup_steps else "train"

    def then_steps(trainer: Any, index: int, state: Any, batch: Any) -> Any:
        found = compiled(trainer, index, state, batch)
        phases.begin(of_step(trainer, index, int(state.step)))
        return found

    def settled(trainer: Any, index: int, pending: Any, state: Any) -> None:
        settle(trainer, index, pending, state)
        phases.begin(of_step(trainer, index, pending.step))

    Trainer._compile, Trainer._settle = then_steps, settled
    start, seal, follow = Checkpoints._start, integrity.seal, Checkpoints._seal

    def written(checkpoints: Any, step: int, content: Any) -> None:
        phases.begin("write", "disk")
        start(checkpoints, step, content)

    def sealed(directory: Any) -> None:
        phases.begin("seal", "disk")
        seal(directory)

    def followed(checkpoints: Any, *details: Any) -> None:
        follow(checkpoints, *details)
        phases.begin("idle", "disk")

    Checkpoints._start, integrity.seal, Checkpoints._seal = written, sealed, followed
    sys.argv = ["train.py", *arguments]
    return exit_code(train.main)


def serve() -> None:
    """Forks a process for every job, and tells its number and how it ended.

    The process stays unreaped until that was heard, so that its number is not given to another one that
    would be killed.
    """
    import resource

    import tensorboardX  # noqa: F401

    import train  # noqa: F401

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
            sys.exit(run(job["trace"], job["arguments"], compile_anew=job["compile_anew"]))
        print(pid, flush=True)
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        print(ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status, flush=True)
        sys.stdin.readline()
        os.waitpid(pid, 0)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.exit(run(sys.argv[1], sys.argv[2:]))
    serve()
