"""Everything that is claimed of a GPU, measured by one command, with a line for each claim that says whether it holds.

    python -m benchmarks.gpu                         # all parts, on one NVIDIA GPU of 80 GB: about half an hour
    python -m benchmarks.gpu agreement train         # parts of it
    python -m benchmarks.gpu --judge                 # the lines again, from what is there
    python -m benchmarks.gpu --tiny --results DIR    # small shapes on any machine: whether the program runs

Each part runs in a process of its own, ends after `--limit` seconds, and writes DIR/gpu_PART.json as it goes; that a
part fails ends no other. What is missing, PyTorch for instance, is left out, and the result says so.
"""

import argparse
import multiprocessing
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import gpu_claims, rates, record
from benchmarks.guarded import Guarded
from rnope_jax.xla_flags import set_environment

#: Called with what a part has found up to then, which it keeps.
Keep = Callable[[dict[str, Any]], Any]


def main() -> None:
    """Measures the parts that are named, and judges all that has been measured."""
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--results", type=Path, default=record.RESULTS, metavar="DIR")
    parser.add_argument("--limit", type=float, default=570, metavar="SECONDS", help="of one part")
    parser.add_argument("--judge", action="store_true", help="measure nothing")
    arguments = parser.parse_args()
    if arguments.tiny and arguments.results == record.RESULTS:
        parser.error("--tiny needs --results: what it measures means nothing")
    if not arguments.judge:
        measure(arguments.parts or list(PARTS), arguments)
    for claim in gpu_claims.judged(arguments.results):
        print(claim)


def measure(names: list[str], arguments: argparse.Namespace) -> None:
    """Runs parts one after the other."""
    side = Guarded(rates.device)
    platform, kind = side.measure()
    side.close()
    if platform != "gpu" and not arguments.tiny:
        raise SystemExit(f"error: no GPU here, only {kind}: --tiny --results DIR tries the program without one")
    for name in names:
        print(f"--- {name}", flush=True)
        if said := run(name, kind, arguments):
            print(f"{name}: {said}", flush=True)


def run(name: str, kind: str, arguments: argparse.Namespace) -> str:
    """Runs a part in a process of its own; what went wrong, if anything did."""
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=part_alone, args=(name, kind, arguments.tiny, arguments.results))
    process.start()
    process.join(arguments.limit)
    if process.exitcode is not None:
        return f"ended with code {process.exitcode}" if process.exitcode else ""
    # With the sides that it started.
    os.killpg(process.pid, signal.SIGKILL)
    process.join()
    return f"stopped after {arguments.limit:.0f} seconds"


def part_alone(name: str, kind: str, tiny: bool, folder: Path) -> None:
    """What the process of a part does."""
    os.setsid()
    PARTS[name](tiny, lambda found: record.record("gpu", {"device": kind, **found}, variant=name, folder=folder))


def agreement(tiny: bool, keep: Keep) -> None:
    """Every backend beside the definition in float32: small rows, and one past twice the window of the 8B shape."""
    from benchmarks import attention
    from benchmarks.attention_sides import TYPES, Case, jax_side
    from benchmarks.sides import Side

    side = Side(jax_side)
    _, device, names = side.measure("device")
    backends = [name for name in names if name not in attention.PEERS]
    found = {"device": device, "agreement": attention.agreement(side, backends)}
    keep(found)
    length, window, dim = (300, 100, 16) if tiny else (9000, 4096, 128)
    for kind in (window, None):
        for dtype in TYPES:
            case = Case(length, kind, True, 4, 1, dim, dtype)
            for name in backends:
                found["agreement"][f"{name}, {case}, {dtype}"] = side.measure("agreement", case, name)
                keep(found)
    side.close()


def attention(length: int, tiny: bool, keep: Keep) -> None:
    """Windows and full attention, packed and not, at one length."""
    from benchmarks import attention

    real = f"--lengths {length} --window 4096 --heads 32 8 --rounds 3 --without blockwise --unchecked"
    small = f"--lengths {length // 256} --window 32 --heads 4 2 --dim 16 --rounds 1 --unchecked"
    attention.measured(attention.parsed((small if tiny else real).split()), keep)


def train(tiny: bool, keep: Keep) -> None:
    """Training steps of the 8B shape at 8k, 32k and 128k."""
    from benchmarks import gpu_train

    gpu_train.measure_ours(tiny, keep)


def beside(length: int, tiny: bool, keep: Keep) -> None:
    """A training step beside transformers at one length."""
    from benchmarks import gpu_train

    gpu_train.measure_beside(length, tiny, keep)


def decode(tiny: bool, keep: Keep) -> None:
    """Decoding beside transformers and beside the memory's rate."""
    from benchmarks import gpu_decode

    gpu_decode.measure(tiny, keep)


#: In the order in which they run: numbers before times.
PARTS: dict[str, Callable[[bool, Keep], None]] = {
    "agreement": agreement,
    "attention_32k": partial(attention, 32_768),
    "attention_128k": partial(attention, 131_072),
    "train": train,
    "beside_8k": partial(beside, 8192),
    "beside_32k": partial(beside, 32_768),
    "decode": decode,
}


if __name__ == "__main__":
    set_environment()
    main()
