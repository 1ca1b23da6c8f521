"""Runs the campaign, records it and writes its table into docs/reliability.md.

    python -m benchmarks.faults WORK [--kills 100] [--flips 100] [--truncations 50] [--seed 0] ...
    python -m benchmarks.faults --page      writes the table again from what was recorded

WORK is a directory for the runs; trials that are in WORK/trials.jsonl already are not made again.
"""

import argparse
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.faults.campaign import ROOT, Campaign, Trial
from benchmarks.faults.child import PHASES
from benchmarks.faults.disks import damaged_files, damaged_runs, full_disks
from benchmarks.faults.kills import COUNTS, kills, other_processes
from benchmarks.record import RESULTS, into_page, record
from rnope_jax.checkpoint import integrity

#: Of each kind of trial its option, how many there are, what it is called, and what makes them.
KINDS: dict[str, tuple[str, int, str, Callable[[Campaign, Sequence[int]], Iterator[Trial]]]] = {
    "flip": ("flips", 100, "bit flip in a checkpoint, then read", partial(damaged_files, kind="flip")),
    "truncation": (
        "truncations",
        50,
        "truncation in a checkpoint, then read",
        partial(damaged_files, kind="truncation"),
    ),
    "deletion": ("deletions", 50, "deleted file in a checkpoint, then read", partial(damaged_files, kind="deletion")),
    "run": ("runs", 10, "damage to one or two checkpoints, then trained on", damaged_runs),
    "disk": ("disks", 10, "full disk", full_disks),
    "kill": ("kills", 100, "kill -9 at a random moment", kills),
    "processes": (
        "counts",
        5,
        f"kill -9 and another number of processes ({', '.join(map(str, COUNTS))})",
        other_processes,
    ),
}


def main() -> None:
    """Runs, records, and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, nargs="?")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--page", action="store_true")
    for option, count, what, _ in KINDS.values():
        parser.add_argument(f"--{option}", type=int, default=count, help=what)
    arguments = parser.parse_args()
    if arguments.page:
        write_page(json.loads((RESULTS / "faults.json").read_text()))
        return
    if arguments.work is None:
        parser.error("give a directory to work in")
    arguments.work.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    campaign = Campaign(arguments.work, arguments.seed)
    hashed = hashing(arguments.work)
    for kind, (option, _, what, trials) in KINDS.items():
        missing = campaign.journal.missing(kind, getattr(arguments, option))
        for trial in trials(campaign, numbers=missing):
            campaign.journal.add(trial)
            print(f"{time.monotonic() - began:7.0f} s  {what} {trial.number}: {trial.loss or 'recovered'}", flush=True)
        found = summary(campaign, hashed)
        record("faults", found)  # as far as it has come
    campaign.close()
    write_page(json.loads((RESULTS / "faults.json").read_text()))
    print(page(found))


def summary(campaign: Campaign, hashed: dict[str, float]) -> dict[str, Any]:
    """What all trials so far came to."""
    of_kind = {kind: [trial for trial in campaign.journal.trials if trial.kind == kind] for kind in KINDS}
    killed = [trial.details for trial in of_kind["kill"]]
    phases = Counter(details["while"] for details in killed)
    apart = [trial.details.get("largest_relative_difference", 0.0) for trial in of_kind["processes"]]
    return {
        "seed": campaign.seed,
        "seconds_of_a_run": [round(seconds, 1) for seconds in campaign.seconds],
        "hashing": hashed,
        "kinds": [
            {
                "what": KINDS[kind][2],
                "trials": len(trials),
                "recovered": sum(trial.loss is None for trial in trials),
                "losses": [trial.loss for trial in trials if trial.loss is not None],
            }
            for kind, trials in of_kind.items()
        ],
        "killed_while": {phase: phases[phase] for phase in PHASES},
        "killed_while_disk": dict(Counter(details["disk"] for details in killed)),
        "largest_relative_difference_of_losses": max(apart, default=None),
        "full_disks_met": sum(trial.details["full"] for trial in of_kind["disk"]),
    }


def page(found: dict[str, Any]) -> str:
    """The table, as text."""
    kinds = [kind for kind in found["kinds"] if kind["trials"]]
    rows = [(kind["what"], kind["trials"], kind["recovered"], len(kind["losses"])) for kind in kinds]
    together = [sum(row[column] for row in rows) for column in (1, 2, 3)]
    lines = ["| fault | trials | recovered | losses |", "| --- | --- | --- | --- |"]
    lines += [f"| {what} | {' | '.join(map(str, counts))} |" for what, *counts in rows]
    lines += [f"| **together** | {' | '.join(map(str, together))} |", ""]
    phases = ", ".join(f"{phase} {count}" for phase, count in found["killed_while"].items() if count)
    disk = found["killed_while_disk"]
    lines += [
        f"The kills fell into these phases: {phases}. At {disk.get('write', 0)} of them a checkpoint was being "
        f"written, at {disk.get('seal', 0)} it was being sealed.",
    ]
    if (apart := found["largest_relative_difference_of_losses"]) is not None:
        lines += [
            f"After a change of the number of processes no loss of any step was off by more than {apart:.1e} of it."
        ]
    return "\n".join(lines)


def write_page(kept: dict[str, Any]) -> None:
    """Puts the table into docs/reliability.md."""
    machine = kept["machine"]
    head = (
        f"Measured on {machine['cores']} cores of an {machine['processor']} under other load "
        f"({kept['date'].split()[0]}, seed {kept['found']['seed']}; `benchmarks/results/faults.json`):"
    )
    into_page(ROOT / "docs" / "reliability.md", "faults", f"{head}\n\n{page(kept['found'])}")


def hashing(work: Path) -> dict[str, float]:
    """GB/s at which checkpoints are hashed, from memory: one thread, and as many as are used."""
    step = work / "1"
    step.mkdir(exist_ok=True)
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


if __name__ == "__main__":
    main()
