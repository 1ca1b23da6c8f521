"""The GPU attention kernels compiled for GPUs that are not there: registers, spills, shared memory, instructions.

    JAX_PLATFORMS=cpu python -m benchmarks.gpu_compile

needs jax's CUDA plugin with its CUDA packages (`pip install "jax[cuda13]" nvidia-cuda-nvdisasm`) and no GPU. Nothing
runs, so nothing is timed; what is read off is what a compiler decides, and the reasons for the table in
rnope_jax/attention/pallas_gpu_tiles.py. A spill in an inner loop, or a program that does not fit into shared memory,
is a fault in that table.
"""

import argparse
import importlib
import json
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks.gpu_target import CHIPS, Chip, devices
from benchmarks.record import record
from rnope_jax.attention import AttentionSpec, attend
from rnope_jax.attention.pallas_gpu_tiles import WIDTHS, choose_tiles
from rnope_jax.config import MeshConfig
from rnope_jax.sharding import make_mesh

#: Instructions by which the tensor cores, or else the ordinary units, multiply.
_PRODUCTS = ("HGMMA", "HMMA", "FFMA")

_KERNELS = {"_forward_kernel": "forward", "_dq_kernel": "dq", "_dkv_kernel": "dkv"}


def main() -> None:
    """Compiles every kernel of the table, and prints and records what came out."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--chips", nargs="+", default=list(CHIPS), choices=list(CHIPS))
    parser.add_argument("--dims", nargs="+", type=int, default=list(WIDTHS))
    parser.add_argument("--types", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--length", type=int, default=8192)
    parser.add_argument("--window", type=int, default=4096)
    arguments = parser.parse_args()
    found = []
    for name in arguments.chips:
        for dtype in arguments.types:
            for dim in arguments.dims:
                shape = {"length": arguments.length, "window": arguments.window, "heads": (8, 2), "dim": dim}
                for kernel in inspect(name, dtype=dtype, **shape):
                    found.append({"chip": name, "dtype": dtype, "head_dim": dim, **kernel})
                    print(json.dumps(found[-1]), flush=True)
    record("gpu_compile", {"length": arguments.length, "window": arguments.window, "packed": True, "kernels": found})


def inspect(
    chip_name: str, *, dtype: str, length: int, window: int, heads: tuple[int, int], dim: int
) -> Iterator[dict[str, Any]]:
    """What became of the three kernels of packed, windowed attention, forward and backward."""
    chip = CHIPS[chip_name]
    with tempfile.TemporaryDirectory() as dump:
        compile_attention(chip_name, dtype=dtype, length=length, window=window, heads=heads, dim=dim, dump=dump)
        plan = next(Path(dump).glob("*thunk_sequence.txt")).read_text()
        tiles = choose_tiles(chip.name, dim, jnp.dtype(dtype).itemsize)
        for path in sorted(Path(dump).glob("*.ptx")):
            entry = re.search(r"\.entry (\w+)\(", path.read_text())
            if entry is None or entry.group(1) not in _KERNELS:
                continue
            kernel = _KERNELS[entry.group(1)]
            shared = re.search(rf"{entry.group(1)} .*shared_memory: (\d+) bytes", plan)
            yield {
                "kernel": kernel,
                "tiles": vars(getattr(tiles, kernel)),
                "shared_memory": int(shared.group(1)) if shared else None,
                "shared_memory_limit": chip.usable_shared_memory,
                **assembled(path, chip),
            }


def compile_attention(
    chip_name: str,
    *,
    dtype: str,
    length: int,
    window: int | None,
    heads: tuple[int, int],
    dim: int,
    packed: bool = True,
    backend: str = "pallas_gpu",
    dump: str | None = None,
) -> jax.stages.Compiled:
    """Compiles a forward and a backward pass; with `dump`, XLA leaves there what it made."""
    count, kv_count = heads
    mesh = make_mesh(MeshConfig(fsdp=1), devices(chip_name))
    place = NamedSharding(mesh, PartitionSpec())
    q, k, v, gradient = (
        jax.ShapeDtypeStruct((1, length, n, dim), dtype, sharding=place) for n in (count, kv_count, kv_count, count)
    )
    segments = jax.ShapeDtypeStruct((1, length), jnp.int32, sharding=place) if packed else None
    spec = AttentionSpec(scale=dim**-0.5, window=window)

    def forward_and_backward(q: Any, k: Any, v: Any, gradient: Any, segments: Any) -> Any:
        out, vjp = jax.vjp(lambda q, k, v: attend(q, k, v, spec, segment_ids=segments, backend=backend), q, k, v)
        return out, *vjp(gradient)

    with jax.set_mesh(mesh):
        lowered = jax.jit(forward_and_backward).lower(q, k, v, gradient, segments)
        return lowered.compile(compiler_options={"xla_dump_to": dump} if dump else None)


def assembled(ptx: Path, chip: Chip) -> dict[str, Any]:
    """Registers and spills as the assembler reports them, and instructions as the disassembler lists them."""
    cubin = ptx.with_suffix(".cubin")
    command = [tool("ptxas"), "-v", f"-arch={chip.architecture}", str(ptx), "-o", str(cubin)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    registers = re.search(r"Used (\d+) registers", said)
    spills = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", said)
    return {
        "registers": int(registers.group(1)) if registers else None,
        "spill_stores_bytes": int(spills.group(1)) if spills else None,
        "spill_loads_bytes": int(spills.group(2)) if spills else None,
        "inner_loops": list(inner_loops(cubin)),
    }


def inner_loops(cubin: Path) -> Iterator[dict[str, Any]]:
    """Instructions of the loops over tiles, per warp: masked, not masked, masked."""
    lines = subprocess.run([tool("nvdisasm"), "-c", str(cubin)], check=True, capture_output=True, text=True).stdout
    labels: dict[str, int] = {}
    instructions: list[str] = []
    for line in lines.splitlines():
        if label := re.match(r"\s*(\.L_x_\d+):", line):
            labels[label.group(1)] = len(instructions)
        elif instruction := re.match(r"\s*/\*[0-9a-f]+\*/\s+(.*);", line):
            instructions.append(instruction.group(1))
    found = []
    for place, instruction in enumerate(instructions):
        target = re.search(r"\bBRA\b.*(\.L_x_\d+)", instruction)
        if target and labels.get(target.group(1), place + 1) <= place:
            found.append((labels[target.group(1)], place))
    for first, last in found:
        body = Counter(_operation(instruction) for instruction in instructions[first : last + 1])
        nested = any(first <= other and end < last for other, end in found if sum(_count(instructions, other, end)) > 8)
        if sum(body[name] for name in _PRODUCTS) > 8 and not nested:
            kinds = {name: body[name] for name in (*_PRODUCTS, "MUFU", "LDGSTS", "LDSM", "LDL", "STL", "BAR")}
            yield {"instructions": last + 1 - first, **{name: number for name, number in kinds.items() if number}}


def _count(instructions: list[str], first: int, last: int) -> list[bool]:
    return [_operation(instruction) in _PRODUCTS for instruction in instructions[first : last + 1]]


def _operation(instruction: str) -> str:
    """`@!P0 HGMMA.64x128x16...` is an HGMMA."""
    return re.sub(r"^@!?U?P\w+\s+", "", instruction).split()[0].split(".")[0]


def tool(name: str) -> str:
    """A program of CUDA: on the path, or in the packages that come with jax's plugin."""
    if on_path := shutil.which(name):
        return on_path
    for package in ("nvidia.cu13", "nvidia.cuda_nvcc", "nvidia.cuda_nvdisasm"):
        try:
            folders = importlib.import_module(package).__path__
        except ImportError:
            continue
        for folder in folders:
            if (program := Path(folder) / "bin" / name).exists():
                return str(program)
    raise SystemExit(f"error: {name} not found: pip install nvidia-cuda-nvcc nvidia-cuda-nvdisasm")


if __name__ == "__main__":
    main()
