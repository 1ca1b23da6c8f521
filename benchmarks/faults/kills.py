"""Kills: of a run at any moment, and of several processes, of which another number goes on."""

import contextlib
import math
import os
import random
import shutil
import signal
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.faults.campaign import STEPS, Campaign, Moment, Trial, losses
from rnope_jax.checkpoint import saved_steps

#: Kills of one run before it may end.
_OF_A_RUN = 10

#: Seconds of a phase in which it is killed: the machine may have done something else in one that was longer.
_LONGEST = 20.0

#: Numbers of processes, one after the other; the last ones end the run.
COUNTS = (2, 1, 4)

#: Several processes compute sums in another order; parameters after these few steps agree to this.
_TOLERANCE = 2e-4


def kills(campaign: Campaign, numbers: Sequence[int]) -> Iterator[Trial]:
    """Kill -9 of a run, again and again, until it ends; its parameters must be bit for bit the same.

    Every kill is a trial. The newest checkpoint must be no older than before, and hold, bit for bit, what the run
    without faults had at that step. Every fourth kill comes at a moment drawn evenly from all of the
    command's time; for the others a phase is drawn first, then a moment within it.
    """
    waiting, run, attempts = deque(numbers), campaign.work / "killed", 0
    while waiting:
        shutil.rmtree(run, ignore_errors=True)
        killed: list[Trial] = []
        loss: str | None = None
        while loss is None:
            newest = max(saved_steps(run / "checkpoints"), default=0)
            number = waiting.popleft() if waiting and len(killed) < _OF_A_RUN else None
            attempts += 1
            moment = Moment(1800) if number is None else _moment(campaign, number, attempts)
            ended = campaign.train(run, moment)
            now = max(saved_steps(run / "checkpoints"), default=0)
            if now < newest:
                loss = f"checkpoint {newest} was gone"
            elif now:
                loss = campaign.wrong(run, now)
            if ended.code == -signal.SIGKILL and number is not None:
                details = {"while": ended.doing.get("main", "imports"), "disk": ended.doing.get("disk", "idle")}
                killed.append(Trial("kill", number, None, {**details, "step": now}))
                continue
            if number is not None:  # it ended before the moment came
                waiting.appendleft(number)
            if ended.code:
                loss = loss or f"ended with code {ended.code}: {ended.said[-300:]}"
            elif now != STEPS:
                loss = loss or f"ended after step {now}"
            break
        for trial in killed:
            yield Trial(trial.kind, trial.number, loss, trial.details)


def _moment(campaign: Campaign, number: int, attempt: int) -> Moment:
    draw = campaign.draw("kill", number, attempt)
    if number % 4 == 0:
        return Moment(draw.uniform(0, min(campaign.seconds)), from_start=True)
    phase = draw.choice(sorted(campaign.lengths.keys() - {("disk", "idle")}))
    lengths = campaign.lengths[phase]
    return Moment(
        draw.uniform(0, min(max(lengths), _LONGEST)),
        phase,
        draw.randint(1, max(1, len(lengths) // 4)),
        from_start=phase[1] == "imports",
        compile_anew=phase[1] == "compile",
    )


def other_processes(campaign: Campaign, numbers: Sequence[int]) -> Iterator[Trial]:
    """Kill -9 of two processes in the middle; one goes on, is killed, and four end; equal up to rounding."""
    run = campaign.work / "several"
    for number in numbers:
        shutil.rmtree(run, ignore_errors=True)
        draw = campaign.draw("processes", number)
        loss, steps = _killed_at(campaign, run, draw)
        process = campaign.launch(run, COUNTS[-1])
        said = process.communicate()[0]
        details: dict[str, Any] = {"killed_after": steps}
        if process.returncode:
            loss = loss or f"code {process.returncode}: {said[-300:]}"
        else:
            found, expected = losses(run), losses(campaign.reference)
            if found.keys() != expected.keys():
                loss = loss or f"losses of {len(found)} steps, not of {len(expected)}"
            else:
                apart = {step: abs(found[step] - expected[step]) for step in expected}
                details["largest_relative_difference"] = max(apart[step] / expected[step] for step in expected)
                worst = next((step for step in expected if apart[step] >= _sixth_digit(expected[step])), None)
                if worst is not None:
                    loss = loss or f"loss of step {worst} is {found[worst]}, not {expected[worst]}"
            loss = loss or campaign.wrong(run, tolerance=_TOLERANCE)
        yield Trial("processes", number, loss, details)


def _killed_at(campaign: Campaign, run: Path, draw: random.Random) -> tuple[str | None, list[int]]:
    """Lets all but the last number of processes begin and be killed; the newest checkpoint after each kill."""
    steps: list[int] = []
    for processes in COUNTS[:-1]:
        wanted = (steps[-1] if steps else 0) + draw.randint(2, 6)
        process = campaign.launch(run, processes)
        deadline = time.monotonic() + 600
        while max(saved_steps(run / "checkpoints"), default=0) < wanted and process.poll() is None:
            time.sleep(0.01)
            if time.monotonic() > deadline:
                break
        reached = max(saved_steps(run / "checkpoints"), default=0) >= wanted
        _kill_all(process)
        said = process.communicate()[0]
        if not reached:
            return f"{processes} processes did not come to step {wanted}: {said[-300:]}", steps
        steps.append(max(saved_steps(run / "checkpoints")))
    return None, steps


def _sixth_digit(value: float) -> float:
    """One unit of the sixth digit of a number."""
    return 10.0 ** (math.floor(math.log10(abs(value))) - 5)


def _kill_all(launcher: Any) -> None:
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
