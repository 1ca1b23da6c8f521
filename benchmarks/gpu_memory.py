"""The steps of configs/gpu_host.py compiled for H100s that are not there: what each GPU would hold and send.

    JAX_PLATFORMS=cpu python -m benchmarks.gpu_memory                     # the recipes
    JAX_PLATFORMS=cpu python -m benchmarks.gpu_memory --stacks 32768x8    # tokens x layers of the 8B shape, one row
    JAX_PLATFORMS=cpu python -m benchmarks.gpu_memory --stacks 131072x8 --remat offload

needs jax's CUDA plugin and no GPU. Nothing runs. Without a GPU XLA chooses matrix kernels by default and not by
trying them, so the temporary memory on a real one may differ by their scratch space. What is compiled anew takes the
place of what was recorded of the same step. `--texts DIR` keeps the compiled programs as text.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.gpu_target import CHIPS, devices
from benchmarks.gpu_train import LAYERS, SETTINGS, gpu_host, stack
from benchmarks.record import RESULTS, record
from benchmarks.train_step import recipe
from rnope_jax.config import Config
from rnope_jax.planning.collectives import by_axes, collectives
from rnope_jax.planning.compiling import compile_step
from rnope_jax.planning.hlo import Computation, Module
from rnope_jax.sharding import make_mesh
from rnope_jax.xla_flags import VARIABLES, compiler_options

#: GPUs of each function of configs/gpu_host.py.
COUNTS = {"one_gpu_1b": 1, "eight_gpus_1b": 8, "one_gpu_8b_layers": 1, "eight_gpus_8b": 8}


def main() -> None:
    """Compiles the steps, and prints and records their memory and their collectives."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--configs", nargs="*", choices=list(COUNTS))
    parser.add_argument("--stacks", nargs="*", metavar="TOKENSxLAYERS")
    parser.add_argument("--chip", default="h100", choices=list(CHIPS))
    parser.add_argument("--remat", choices=("full", "offload", "sequential"), help="of all of them, for what is set")
    parser.add_argument("--texts", type=Path, metavar="DIR")
    arguments = parser.parse_args()
    kept = RESULTS / "gpu_memory.json"
    found = json.loads(kept.read_text())["found"]["steps"] if kept.exists() else []
    for name, count, config in chosen(arguments.configs, arguments.stacks):
        if arguments.remat:
            name, config = (
                f"{name} {arguments.remat}",
                replace(config, model=replace(config.model, remat=arguments.remat)),
            )
        step = compiled(name, count, config, arguments.chip, arguments.texts)
        print(json.dumps(step), flush=True)
        found = [each for each in found if each["config"] != name] + [step]
        # Written as it grows: to compile a step may take long.
        record("gpu_memory", {"chip": CHIPS[arguments.chip].name, "steps": found})


def chosen(configs: list[str] | None, stacks: list[str] | None) -> Iterator[tuple[str, int, Config]]:
    """Names, numbers of GPUs and configurations of what is named; of everything if nothing is."""
    everything = configs is None and stacks is None
    for name in COUNTS if everything else configs or ():
        yield name, COUNTS[name], getattr(gpu_host, name)()
    for name in [f"{length}x{layers}" for length, layers in LAYERS.items()] if everything else stacks or ():
        length, layers = map(int, name.split("x"))
        yield name, 1, recipe(stack(layers, tiny=False), length, SETTINGS)


def compiled(name: str, count: int, config: Config, chip: str, texts: Path | None) -> dict[str, Any]:
    """What the compiler says of a step."""
    mesh = make_mesh(config.mesh, devices(chip, count))
    step = compile_step(config, 0, mesh, compiler_options("gpu"))
    if texts is not None:
        texts.mkdir(parents=True, exist_ok=True)
        (texts / f"{name}.txt").write_text(step.text)
    [fraction] = [float(flag.value) for flag in VARIABLES["gpu"] if flag.name == "XLA_PYTHON_CLIENT_MEM_FRACTION"]
    return {
        "config": name,
        "gpus": count,
        "state_gib": _gib(step.arguments),
        "temporary_gib": _gib(step.temporaries),
        "host_gib": _gib(step.host),
        "total_gib": _gib(step.total),
        "fits": step.total <= fraction * CHIPS[chip].memory and not step.refusal,
        "kernels": step.text.count("__gpu$xla.gpu.triton"),
        "collectives": talk(step.text, dict(mesh.shape)),
        "compile_seconds": round(step.seconds),
        "refusal": step.refusal,
        "warnings": list(step.warnings),
    }


def talk(text: str, mesh_shape: dict[str, int]) -> list[dict[str, Any]]:
    """Collectives of a step by kind: how many run, how many of them beside other work, what each GPU sends."""
    if not text:
        return []
    module = Module(text)
    beside = {name for computation in module.computations.values() for name in overlapped(computation)}
    return [
        {
            "kind": kind,
            "axes": list(axes),
            "runs": sum(each.times for each in members),
            "beside_work": sum(each.times for each in members if each.name in beside),
            "sent_gib": _gib(sum(each.total for each in members)),
        }
        for kind, axes, members in by_axes(collectives(module, mesh_shape))
    ]


def overlapped(computation: Computation) -> Iterator[str]:
    """Operations that begin before some kernel or loop and end after it; the text is in the order of the schedule."""
    begun: dict[str, bool] = {}
    for instruction in computation.instructions.values():
        if instruction.opcode.endswith("-start"):
            begun[instruction.name] = False
        elif instruction.opcode.endswith("-done"):
            for name in instruction.operands:
                if begun.pop(name, False):
                    yield name
        elif instruction.opcode in ("fusion", "custom-call", "while", "conditional", "call"):
            begun = dict.fromkeys(begun, True)


def _gib(size: int) -> float:
    return round(size / 2**30, 2)


if __name__ == "__main__":
    main()
