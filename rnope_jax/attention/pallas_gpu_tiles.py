"""How the GPU kernels cut the logits into tiles, by GPU generation, type and width of a head."""

from dataclasses import dataclass, replace

#: Widths of heads for which there are kernels; others are padded to the next.
WIDTHS = (64, 128, 256)

#: Least edge of a tile: the tensor cores take no less.
SMALLEST = 16


@dataclass(frozen=True)
class Tiles:
    """How one kernel is cut and run."""

    queries: int
    keys: int
    warps: int
    """Groups of 32 threads that work on a tile together."""
    stages: int
    """How many tiles are on their way between the memories of GPU and multiprocessor."""


@dataclass(frozen=True)
class Kernels:
    """The tiles of the three kernels."""

    forward: Tiles
    dq: Tiles
    dkv: Tiles

    @property
    def queries(self) -> int:
        """What every number of queries must be a multiple of; edges are powers of two."""
        return max(self.forward.queries, self.dq.queries, self.dkv.queries)

    @property
    def keys(self) -> int:
        """What every number of keys must be a multiple of."""
        return max(self.forward.keys, self.dq.keys, self.dkv.keys)

    def dividing(self, length: int) -> "Kernels":
        """The same with fewer queries to a tile where they would not divide this length."""
        most = length & -length
        parts = (self.forward, self.dq, self.dkv)
        return Kernels(*(replace(part, queries=min(part.queries, most)) for part in parts))


#: The one place for sizes of tiles. They follow from compiling the kernels ahead of time for each
#: generation (benchmarks/gpu_compile.py, results in benchmarks/results/gpu_compile.json) and reading
#: registers, spills, shared memory and the instructions of the inner loop:
#:
#: - 128 queries (forward, dq) or 128 keys (dkv) stay with a program, because what it fetches is used by as
#:   many: 64 would ask twice as much of the second-level cache.
#: - On Hopper 128 keys at a time cost 775 instructions per warp forward where twice 64 cost 954, and the
#:   tensor cores take 128 columns at a time from shared memory without waiting for it. 8 warps (two groups of
#:   four, as wgmma wants them) hold the accumulators of 128 channels in registers; 4 warps spill.
#: - dkv holds two accumulators: 64 queries at a time fill the registers to the last.
#: - Ampere keeps the queries in registers, which leaves room for 64 keys at a time.
#: - Other generations have 100 KiB of shared memory for a program, and get what fits.
#: - float32 is multiplied outside the tensor cores (TF32 would round it): small tiles that do not spill.
_HALF = {
    "hopper": {
        64: Kernels(Tiles(128, 128, 4, 2), Tiles(128, 128, 8, 2), Tiles(64, 128, 8, 2)),
        128: Kernels(Tiles(128, 128, 8, 2), Tiles(128, 128, 8, 2), Tiles(64, 128, 8, 2)),
        256: Kernels(Tiles(128, 64, 8, 2), Tiles(128, 32, 8, 2), Tiles(32, 64, 8, 2)),
    },
    "ampere": {
        64: Kernels(Tiles(128, 64, 8, 3), Tiles(128, 64, 8, 2), Tiles(64, 128, 8, 2)),
        128: Kernels(Tiles(128, 64, 8, 3), Tiles(128, 64, 8, 2), Tiles(64, 128, 8, 2)),
        256: Kernels(Tiles(64, 64, 8, 2), Tiles(64, 64, 8, 2), Tiles(32, 64, 8, 2)),
    },
    "other": {
        64: Kernels(Tiles(128, 64, 8, 3), Tiles(128, 64, 8, 2), Tiles(64, 128, 8, 2)),
        128: Kernels(Tiles(128, 64, 8, 2), Tiles(64, 64, 8, 2), Tiles(32, 128, 8, 2)),
        256: Kernels(Tiles(64, 32, 8, 2), Tiles(32, 32, 4, 2), Tiles(32, 32, 8, 2)),
    },
}
_SINGLE = {
    64: Kernels(Tiles(64, 32, 8, 2), Tiles(64, 32, 8, 2), Tiles(32, 64, 8, 2)),
    128: Kernels(Tiles(32, 32, 4, 2), Tiles(32, 32, 8, 2), Tiles(32, 32, 8, 2)),
    256: Kernels(Tiles(32, 16, 8, 2), Tiles(32, 16, 8, 2), Tiles(16, 16, 8, 2)),
}

#: What the runtime calls devices of a generation.
_GENERATIONS = {"hopper": ("H100", "H200", "GH200"), "ampere": ("A100", "A30")}


def generation(device_kind: str) -> str:
    """The generation of a device, "other" if it is not in the table."""
    for name, kinds in _GENERATIONS.items():
        if any(kind in device_kind.replace("-", " ").split() for kind in kinds):
            return name
    return "other"


def choose_tiles(device_kind: str, head_dim: int, itemsize: int) -> Kernels:
    """The tiles for heads of this width on this device.

    Args:
      device_kind: as in `jax.Device.device_kind`.
      head_dim: channels of a head, at most the last of `WIDTHS`.
      itemsize: bytes of a channel.
    """
    table = _HALF[generation(device_kind)] if itemsize <= 2 else _SINGLE
    return next((table[width] for width in WIDTHS if head_dim <= width), table[WIDTHS[-1]])
