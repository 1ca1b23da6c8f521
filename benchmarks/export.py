"""Peak memory of exporting and importing a model of a given shape, Command R7B's unless told otherwise.

    python -m benchmarks.export WORK [--layers 32]

WORK needs room for the checkpoint (float32), the export (bfloat16) and the import: 64 GB for 8B. The
checkpoint is written array by array in the layout of a real one, because the whole need not fit into
memory; its values are random.
"""

import argparse
import os
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import tensorstore

from benchmarks.record import record
from configs import command_r7b
from rnope_jax.checkpoint import Checkpoints, integrity
from rnope_jax.config import CheckpointConfig, Config, ModelConfig
from rnope_jax.flops import parameters
from rnope_jax.model import describe
from rnope_jax.run import Run


def main() -> None:
    """Makes the run, exports it, imports the export; measures each in a process of its own."""
    parser = argparse.ArgumentParser()
    parser.add_argument("work", type=Path)
    parser.add_argument("--layers", type=int, default=32)
    arguments = parser.parse_args()
    config = command_r7b.config()
    shape = replace(config.model, num_layers=arguments.layers)
    work: Path = arguments.work
    work.mkdir(parents=True)
    run, out, back = work / "run", work / "out", work / "back"
    try:
        make_run(run, replace(config, model=shape, run_dir=str(run)), shape)
        exported = measured("export", str(run), str(out), "--no-verify")
        shutil.rmtree(run)
        imported = measured("import", str(out), str(back))
        weights = sum(file.stat().st_size for file in out.glob("*.safetensors"))
        found = {
            "parameters": parameters(shape).total,
            "largest_tensor_bytes": 2 * shape.vocab_size * shape.d_model,
            "shards": len(list(out.glob("*.safetensors"))),
            "weights_bytes": weights,
            "export": exported,
            "import": imported,
        }
    finally:
        shutil.rmtree(work)
    print(record("export", found).read_text())


def measured(*arguments: str) -> dict[str, float]:
    """Seconds and peak resident memory of a `rnope` command."""
    began = time.perf_counter()
    child = subprocess.Popen([sys.executable, "-m", "rnope_jax.cli.main", *arguments])
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"rnope {' '.join(arguments)} failed")
    return {"seconds": round(time.perf_counter() - began, 1), "peak_gib": round(_peak_gib(usage), 2)}


def _peak_gib(usage: resource.struct_rusage) -> float:
    return usage.ru_maxrss / 2**20


def make_run(path: Path, config: Config, shape: ModelConfig) -> None:
    """A run with one checkpoint: a small one whose parameters are then put into its store one by one."""
    run = Run(path)
    path.mkdir()
    run.record(config)
    checkpoints = Checkpoints(run.checkpoints, CheckpointConfig())
    checkpoints.save(1, {"params": {"none": jnp.zeros(1)}, "step": jnp.int32(1)}, {"step": 1})
    checkpoints.close()
    rng = np.random.default_rng(0)
    for name, info in describe(shape).items():
        _write(run.checkpoints / "1" / "state", name, info.shape, rng)
    integrity.seal(run.checkpoints / "1")


def _write(state: Path, name: str, dims: tuple[int, ...], rng: np.random.Generator) -> None:
    rows = 1 if name.startswith("periods.") else max(1, 2**26 // int(np.prod(dims[1:], dtype=int)))
    chunk = [min(rows, dims[0]), *dims[1:]]
    spec: dict[str, Any] = {
        "driver": "zarr3",
        "kvstore": {"driver": "ocdbt", "base": f"file://{state.absolute()}/", "path": f"params.{name}/"},
        "metadata": {
            "shape": list(dims),
            "data_type": "float32",
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk}},
        },
        "create": True,
    }
    array = tensorstore.open(spec).result()
    for start in range(0, dims[0], chunk[0]):
        stop = min(start + chunk[0], dims[0])
        array[start:stop].write(0.02 * rng.standard_normal((stop - start, *dims[1:]), np.float32)).result()


if __name__ == "__main__":
    main()
