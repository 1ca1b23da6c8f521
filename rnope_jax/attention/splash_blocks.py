"""How splash attention cuts a sequence into blocks, by TPU generation and layer kind."""

from dataclasses import dataclass

import numpy as np
from jax.experimental.pallas.ops.tpu.splash_attention import BlockSizes
from jax.experimental.pallas.ops.tpu.splash_attention.splash_attention_mask_info import MaskInfo

from rnope_jax.errors import UserError

#: Blocks and sequences are multiples of this: the width of a vector register.
LANES = 128

#: Bytes of the scalar memory of a TensorCore that a table may fill; it has 1 MiB.
TABLE_BYTES = 960 * 1024

#: Keys that a kernel takes from a loaded block at a time. The compiled kernels were equally long
#: with 256, 512 and 1024.
KEYS_AT_A_TIME = 256


@dataclass(frozen=True)
class Blocks:
    """Queries and keys of a block of the mask; the three kernels use the same."""

    queries: int
    keys: int

    def sizes(self) -> BlockSizes:
        """As the library names them: forward, dkv, dq. Not fused: the fused backward keeps one dq per block of keys."""
        piece = min(self.keys, KEYS_AT_A_TIME)
        return BlockSizes(*(self.queries, self.keys, piece) * 2, self.queries, self.keys)


@dataclass(frozen=True)
class Generation:
    """The blocks of one TPU generation."""

    full: Blocks
    window: Blocks
    narrow: Blocks
    """For windows of at most `NARROW` keys."""
    budget: int
    """Largest queries x keys x bytes of a head's row for which XLA's default grant of vector memory suffices."""


#: A window of this many keys or fewer takes the narrow blocks.
NARROW = 1024

#: The one place for block sizes. They follow from compiling the kernels ahead of time for each
#: generation and counting the instruction bundles of one block:
#:
#: - Per pair of query and key all blocks from 512 up cost the same (v5p: 4.3 bundles per 1024 pairs
#:   forward, 5.3 dq, 7.8 to 8.4 dkv; v6e: 3.1, 3.5, 5.0). What differs is the number of grid steps,
#:   each with about 0.35 us of its own (some 600 bundles), and the work wasted outside the mask.
#: - full: few steps matter, also because the grid is a rectangle whose upper triangle is stepped
#:   through. At 128k tokens 1024 x 2048 costs 8% less than 1024 x 1024. 2048 x 2048 would save as
#:   much again on v6e, but compiles three times as long, does not fit v4 to v5p without a raised
#:   xla_tpu_scoped_vmem_limit_kib, and v6e not at every length.
#: - window: a block of b queries loads W + b keys, so a large block wastes work. W = 4096 costs
#:   per 1024 queries 97k bundles with 1024 x 1024, 105k with 1024 x 512, 114k with 512 x 512.
#: - narrow: W = 512 costs 25k with 512 x 512, 39k with 1024 x 1024 and 35k with 256 x 256; the two
#:   larger ones meet at W = 1024.
#: - budget: 1024 x 2048 compiles with rows of 256 bytes (128 channels of bfloat16) on the
#:   generations that grant 16 MiB, and with rows of 512 bytes where it is 32 MiB.
_FULL, _WINDOW, _NARROW = Blocks(1024, 2048), Blocks(1024, 1024), Blocks(512, 512)
TABLE = {
    "v4": Generation(_FULL, _WINDOW, _NARROW, budget=2**29),
    "v5e": Generation(_FULL, _WINDOW, _NARROW, budget=2**29),
    "v5p": Generation(_FULL, _WINDOW, _NARROW, budget=2**29),
    "v6e": Generation(_FULL, _WINDOW, _NARROW, budget=2**30),
    "7x": Generation(_FULL, _WINDOW, _NARROW, budget=2**30),
}

#: Device kinds as the runtime names them.
KINDS = {
    "TPU v4": "v4",
    "TPU v5 lite": "v5e",
    "TPU v5e": "v5e",
    "TPU v5": "v5p",
    "TPU v5p": "v5p",
    "TPU v6 lite": "v6e",
    "TPU v6e": "v6e",
    "TPU7x": "7x",
}


def choose_blocks(device_kind: str, window: int | None, head_dim: int, itemsize: int) -> Blocks:
    """The blocks for a layer of this window on this device; an unknown generation gets the most modest ones.

    Args:
      device_kind: as in `jax.Device.device_kind`.
      window: keys that a query sees; None: the whole prefix.
      head_dim: channels of a head.
      itemsize: bytes of a channel.
    """
    generation = TABLE[KINDS.get(device_kind, "v4")]
    if window is None:
        blocks = generation.full
    elif window <= NARROW:
        blocks = generation.narrow
    else:
        blocks = generation.window
    queries, keys = blocks.queries, blocks.keys
    row = -(-head_dim // LANES) * LANES * itemsize
    while queries * keys * row > generation.budget and max(queries, keys) > LANES:
        queries, keys = (queries, keys // 2) if keys > queries else (queries // 2, keys)
    return Blocks(queries, keys)


def fit(blocks: Blocks, length: int) -> tuple[Blocks, int]:
    """Blocks for a sequence of this length, and the padding that they need.

    Block edges are powers of two, so that the longer divides whatever the other does. They shrink
    until padding is at most an eighth of the sequence.
    """
    longest = max(blocks.queries, blocks.keys)
    while longest > LANES and -length % longest > length // 8:
        longest //= 2
    return Blocks(min(blocks.queries, longest), min(blocks.keys, longest)), -length % longest


def check_table(table: MaskInfo, length: int) -> None:
    """Checks that a table fits the scalar memory.

    Raises:
      UserError: naming the length and what to do.
    """
    entries = [np.asarray(part) for part in (table.data_next, table.block_mask)]
    size = sum(part.nbytes for part in entries)
    if size > TABLE_BYTES:
        raise UserError(
            f"sequence_length = {length:,}: splash attention lists {entries[0].size:,} blocks of the layer, "
            f"{size / 2**20:.1f} MiB, and a TPU core has 1 MiB for them; use at most 524,288 tokens per "
            'device, or model.attention = "blockwise"'
        )
