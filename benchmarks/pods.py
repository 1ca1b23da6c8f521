"""Plans of every recipe in configs/pods.py, and of what was considered instead; writes the tables of docs/pods.md.

    python -m benchmarks.pods [CASE ...]

Each plan compiles a real training step for its pod, one to six minutes on two cores. What is named is
planned anew (a recipe, or a recipe with what differs, in quotes); without names, what has no result yet.
"""

import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.record import RESULTS, into_page, record

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "configs"))
import pods  # noqa: E402  (as train.py finds it: among its neighbours)

#: What was compared with a recipe: its name, and what differs.
INSTEAD: dict[str, tuple[str, ...]] = {
    "r7b_8k_v5p": ("--stages.0.accumulation 1", "--stages.0.accumulation 1 --model.remat full", "--model.remat none"),
    "r7b_128k_v5p": ("--mesh.context 8",),
    "r7b_8k_v6e": ("--stages.0.accumulation 1",),
    "r7b_256k_v6e": ("--model.remat attention",),
    "command_a_8k_v5p": ("--model.remat attention",),
}

PAGE = ROOT / "docs" / "pods.md"

_PROGRAM = "from rnope_jax.cli.main import main; import sys; main(['plan', *sys.argv[1:]])"
_HEAD = (
    "| recipe | mesh | rows | fits | memory GiB (activations + temporaries) | step s, binds | tokens/s/chip "
    "| peak | sent GiB | planned in |"
)


def main() -> None:
    """Plans what the command line names, or everything, and writes results and page."""
    kept = RESULTS / "pods.json"
    found: dict[str, Any] = json.loads(kept.read_text())["found"] if kept.exists() else {}
    chosen = sys.argv[1:] or [case for case in cases() if case not in found]
    # The recipes first: what they were compared with matters less.
    for case in sorted(chosen, key=lambda case: " " in case):
        name, *options = case.split()
        found[case] = planned(name, options)
        in_order = {case: found[case] for case in cases() if case in found}
        record("pods", in_order)
        write_page(in_order)
        print(row(case, found[case]), flush=True)


def cases() -> list[str]:
    """Every recipe, followed by what it was compared with."""
    return [f"{name} {change}".strip() for name in pods.TOPOLOGIES for change in ("", *INSTEAD.get(name, ()))]


def planned(name: str, options: list[str]) -> dict[str, Any]:
    """The plan of a recipe, with the time and memory that making it took."""
    command = [sys.executable, "-c", _PROGRAM, f"configs/pods.py:{name}", "--topology", pods.TOPOLOGIES[name], "--json"]
    began = time.perf_counter()
    ended = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise SystemExit(f"{name} {options}: {ended.stderr}")
    plan = json.loads(ended.stdout)
    plan["planner_seconds"] = round(time.perf_counter() - began)
    # The largest of all plans up to here.
    plan["planner_peak_gib"] = round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20, 1)
    return plan


def row(case: str, plan: dict[str, Any]) -> str:
    """A line of the table."""
    memory, roofline = plan["memory_per_device"], plan["roofline"]
    mesh = " x ".join(f"{axis} {size}" for axis, size in plan["mesh"].items() if size > 1)
    spare = memory["spare"] / 2**30
    cells = [
        f"`{case}`",
        mesh,
        f"{plan['batch_size']} x {plan['sequence_length']:,}",
        f"{spare:.1f} GiB to spare" if plan["fits"] else f"**no**, {-spare:.1f} GiB too many",
        f"{memory['total'] / 2**30:.1f} ({memory['activations'] / 2**30:.1f} + {memory['temporaries'] / 2**30:.1f})",
        f"{roofline['seconds']:.2f}, {roofline['bound']}" if roofline else "",
        f"{roofline['tokens_per_second_per_chip']:,.0f}" if roofline else "",
        f"{roofline['utilisation']:.0%}" if roofline else "",
        f"{sum(talk['sent'] for talk in plan['collectives']) / 2**30:.0f}" if roofline else "",
        f"{plan['planner_seconds']} s",
    ]
    return "| " + " | ".join(cells) + " |"


def write_page(found: dict[str, Any]) -> None:
    """Puts the tables into docs/pods.md."""
    parts = []
    for topology in dict.fromkeys(pods.TOPOLOGIES.values()):
        of_pod = {case: plan for case, plan in found.items() if pods.TOPOLOGIES[case.split()[0]] == topology}
        if of_pod:
            head = [f"### {topology}", "", _HEAD, "|" + " --- |" * (_HEAD.count("|") - 1)]
            parts += [*head, *(row(case, plan) for case, plan in of_pod.items()), ""]
    into_page(PAGE, "pods", "\n".join(parts))


if __name__ == "__main__":
    main()
