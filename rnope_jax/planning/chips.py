"""What is known of each TPU generation: one table, from public sources.

The chip pages of the Cloud TPU documentation (docs.cloud.google.com/tpu/docs/v4, /v5e, /v5p, /v6e,
/tpu7x) give peak compute, memory and its bandwidth, the bidirectional bandwidth of the inter-chip
interconnect (ICI) per chip, and the bandwidth of the data-centre network (DCN) per chip. A link's
one-way bandwidth is half of the former divided by the number of links: 4 in a 2D torus, 6 in a 3D one.

What a program may use of the memory is less than the chip has; it is what libtpu 0.0.42 states when
a program that is too large is compiled ("exceeds available HBM").
"""

from dataclasses import dataclass

_GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """One TPU chip."""

    name: str
    """As users call it: v5p."""
    library_name: str
    """As libtpu calls it."""
    dimensions: int
    """Of the torus."""
    devices: int
    """JAX devices per chip."""
    hbm: int
    """Bytes of memory."""
    usable_hbm: int
    """Bytes of memory that programs may use, over all devices of the chip."""
    flops: float
    """Peak bf16 FLOP/s."""
    hbm_bandwidth: float
    """Bytes/s."""
    link_bandwidth: float
    """Bytes/s of one ICI link in one direction."""
    dcn_bandwidth: float
    """Bytes/s to other slices, one way."""
    largest: int
    """Chips of the largest slice."""
    config_name: str = "default"
    """How libtpu drives the chip's cores."""


#: Every generation that libtpu compiles for, but for v2 and v3, which no longer matter here.
CHIPS: dict[str, Chip] = {
    chip.name: chip
    for chip in (
        Chip(
            name="v4",
            library_name="v4",
            dimensions=3,
            devices=1,
            hbm=32 * _GIB,
            usable_hbm=int(30.75 * _GIB),
            flops=275e12,
            hbm_bandwidth=1.2e12,
            # Jouppi et al. 2023 (arXiv 2304.01433), table 4: six links of 50 GB/s.
            link_bandwidth=50e9,
            # Not published; that of v5e is assumed.
            dcn_bandwidth=3.125e9,
            largest=4096,
            # Both cores as one device, as Cloud TPU machines run v4.
            config_name="megacore",
        ),
        Chip(
            name="v5e",
            library_name="v5e",
            dimensions=2,
            devices=1,
            hbm=16 * _GIB,
            usable_hbm=int(15.75 * _GIB),
            flops=197e12,
            hbm_bandwidth=0.819e12,
            link_bandwidth=50e9,  # 400 GB/s bidirectional over 4 links
            dcn_bandwidth=3.125e9,  # 6.4 Tb/s for a pod of 256
            largest=256,
        ),
        Chip(
            name="v5p",
            library_name="v5p",
            dimensions=3,
            devices=1,
            hbm=96 * _GIB,  # "95 GiB", of which libtpu gives 95.74
            usable_hbm=int(95.74 * _GIB),
            flops=459e12,
            hbm_bandwidth=2.765e12,
            link_bandwidth=100e9,  # 1200 GB/s bidirectional over 6 links
            dcn_bandwidth=6.25e9,  # 50 Gb/s
            largest=6144,
        ),
        Chip(
            name="v6e",
            library_name="v6e",
            dimensions=2,
            devices=1,
            hbm=32 * _GIB,
            usable_hbm=int(31.25 * _GIB),
            flops=918e12,
            hbm_bandwidth=1.638e12,
            link_bandwidth=100e9,  # 800 GB/s bidirectional over 4 links
            dcn_bandwidth=12.5e9,  # 100 Gb/s
            largest=256,
        ),
        Chip(
            name="7x",
            library_name="tpu7x",
            dimensions=3,
            devices=2,  # "two TPU devices instead of the single logical core"
            hbm=192 * _GIB,
            usable_hbm=2 * int(94.75 * _GIB),
            flops=2307e12,
            hbm_bandwidth=7.38e12,
            link_bandwidth=100e9,  # 1200 GB/s bidirectional over 6 links
            dcn_bandwidth=12.5e9,  # 100 Gb/s
            largest=9216,
        ),
    )
}

#: Other names under which generations are known.
ALIASES = {
    "v5litepod": "v5e",
    "v5lite": "v5e",
    "v5": "v5p",
    "v6": "v6e",
    "trillium": "v6e",
    "v7x": "7x",
    "v7": "7x",
    "tpu7x": "7x",
    "ironwood": "7x",
}
