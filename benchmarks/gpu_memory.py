"""The steps of configs/gpu_host.py compiled for H100s that are not there: what each GPU would hold.

    JAX_PLATFORMS=cpu python -m benchmarks.gpu_memory

needs jax's CUDA plugin and no GPU. Nothing runs. Without a GPU XLA chooses matrix kernels by default and not by
trying them, so the temporary memory on a real one may differ by their scratch space.
"""

import argparse
import json
from pathlib import Path

from benchmarks.gpu_target import CHIPS, devices
from benchmarks.record import record
from rnope_jax.cli import config_file
from rnope_jax.planning.compiling import compile_step
from rnope_jax.sharding import make_mesh
from rnope_jax.xla_flags import compiler_options

CONFIGS = Path(__file__).parent.parent / "configs" / "gpu_host.py"

#: GPUs of each function of configs/gpu_host.py.
COUNTS = {"one_gpu_1b": 1, "eight_gpus_1b": 8, "one_gpu_8b_layers": 1, "eight_gpus_8b": 8}


def main() -> None:
    """Compiles the steps, and prints and records their memory."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--configs", nargs="+", default=list(COUNTS), choices=list(COUNTS))
    parser.add_argument("--chip", default="h100", choices=list(CHIPS))
    arguments = parser.parse_args()
    found = []
    for name in arguments.configs:
        config = config_file.load(f"{CONFIGS}:{name}")
        mesh = make_mesh(config.mesh, devices(arguments.chip, COUNTS[name]))
        step = compile_step(config, 0, mesh, compiler_options("gpu"))
        found.append(
            {
                "config": name,
                "gpus": COUNTS[name],
                "state_gib": _gib(step.arguments),
                "temporary_gib": _gib(step.temporaries),
                "total_gib": _gib(step.total),
                "kernels": step.text.count("__gpu$xla.gpu.triton"),
                "compile_seconds": round(step.seconds),
                "refusal": step.refusal,
            }
        )
        print(json.dumps(found[-1]), flush=True)
        # Written as it grows: to compile a step may take long.
        record("gpu_memory", {"chip": CHIPS[arguments.chip].name, "steps": found})


def _gib(size: int) -> float:
    return round(size / 2**30, 2)


if __name__ == "__main__":
    main()
