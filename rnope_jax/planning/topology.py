"""A slice of TPUs by name, `v5p:4x4x8`, and its devices, which need not exist on this machine."""

import difflib
import importlib.util
import itertools
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rnope_jax.errors import UserError
from rnope_jax.planning.chips import ALIASES, CHIPS, Chip
from rnope_jax.planning.output import captured

#: Chips of one host, which libtpu wants in every slice. Smaller slices are a part of a host.
_HOST = (2, 2, 1)

#: The 2D shapes that Cloud TPU offers.
_FLAT_SHAPES = ((1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))

#: The 3D shapes below one cube of 4x4x4; above, every size is a multiple of 4.
_SMALL_SHAPES = ((2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4))

#: A length at which links close a ring: whole cubes in 3D, the length of a pod in 2D.
_RING = {2: 16, 3: 4}

#: Keeps libtpu from asking a metadata server for the chips of this machine, and from refusing to be
#: loaded by two programs at once: no chip is used.
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5p-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


@dataclass(frozen=True)
class Topology:
    """Slices of one generation and shape."""

    chip: Chip
    shape: tuple[int, ...]
    """Chips along each dimension of a slice."""
    slices: int = 1
    """How many; they talk over the data-centre network."""

    def __str__(self) -> str:
        name = f"{self.chip.name}:{_shown(self.shape)}"
        return name if self.slices == 1 else f"{self.slices} slices of {name}"

    @property
    def chips(self) -> int:
        """Chips in all slices."""
        return math.prod(self.shape) * self.slices

    @property
    def devices(self) -> int:
        """JAX devices in all slices."""
        return self.chips * self.chip.devices

    @property
    def rings(self) -> tuple[bool, ...]:
        """For each dimension of a slice, whether its ends are linked."""
        return tuple(size % _RING[self.chip.dimensions] == 0 for size in self.shape)


def parse(name: str, slices: int = 1) -> Topology:
    """The topology that a name such as v5p:4x4x8 stands for.

    Raises:
      UserError: with the nearest names or shapes, if there is none.
    """
    generation, colon, sizes = name.strip().lower().removeprefix("tpu-").partition(":")
    generation = ALIASES.get(generation, generation)
    if generation not in CHIPS:
        near = difflib.get_close_matches(generation, [*CHIPS, *ALIASES], n=1)
        hint = f"; did you mean {ALIASES.get(near[0], near[0])}?" if near else "."
        raise UserError(f"topology {name!r}: there is no TPU {generation!r}{hint} Choose {_listed(CHIPS)}")
    chip = CHIPS[generation]
    parts = sizes.split("x")
    if not colon or not all(part.isdecimal() and int(part) for part in parts):
        example = _shown(near_shapes(chip, 64)[0])
        raise UserError(f"topology {name!r}: expected GENERATION:SIZES, for example {generation}:{example}")
    shape = tuple(int(part) for part in parts)
    shapes = _listed(_shown(near) for near in near_shapes(chip, math.prod(shape)))
    if len(shape) != chip.dimensions:
        raise UserError(
            f"topology {name!r}: {generation} slices have {chip.dimensions} dimensions, not {len(shape)}; "
            f"of about that size there are {shapes}"
        )
    if not _offered(chip, shape):
        raise UserError(
            f"topology {name!r}: there is no {generation} slice of this shape; of about that size there are {shapes}"
        )
    if slices < 1:
        raise UserError(f"--slices {slices}: must be at least 1")
    return Topology(chip, shape, slices)


def near_shapes(chip: Chip, chips: int, count: int = 4) -> list[tuple[int, ...]]:
    """Shapes of slices of about this many chips, the nearest first."""
    shapes: Iterable[tuple[int, ...]] = _FLAT_SHAPES
    if chip.dimensions == 3:
        steps = range(4, 33, 4)
        cubes = [shape for shape in itertools.combinations_with_replacement(steps, 3) if _offered(chip, shape)]
        shapes = [*_SMALL_SHAPES, *cubes]
    # Among shapes of one size the most compact comes first: its rings are the shortest.
    return sorted(shapes, key=lambda shape: (abs(math.log(math.prod(shape) / chips)), max(shape)))[:count]


def available() -> bool:
    """Whether the compiler for TPUs is installed."""
    return importlib.util.find_spec("libtpu") is not None


def devices(topology: Topology) -> Sequence[Any]:
    """Stand-ins for the devices of a topology, good for compiling and nothing else.

    Raises:
      UserError: without libtpu, or if it does not know the topology.
    """
    if not available():
        raise UserError(
            "compiling for TPUs needs their compiler, which is the Python package libtpu: "
            "pip install 'rnope-jax[tpu]' (no TPU is needed)"
        )
    for key, value in _ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    from jax.experimental import topologies

    chip, shape = topology.chip, topology.shape
    host = tuple(min(limit, size) for limit, size in zip(_HOST, (*shape, 1), strict=False))
    options: dict[str, Any] = {} if topology.slices == 1 else {"num_slices": topology.slices}
    try:
        with captured():
            description = topologies.get_topology_desc(
                platform="tpu",
                topology_name=f"{chip.library_name}:{_shown(shape)}",
                chip_config_name=chip.config_name,
                chips_per_host_bounds=host,
                wrap=(*topology.rings, False)[:3],
                **options,
            )
    except Exception as error:  # its own types differ between versions
        raise UserError(f"topology {topology}: {str(error).splitlines()[0]}") from error
    found = list(description.devices)
    if len(found) != topology.devices:
        raise UserError(
            f"topology {topology}: this libtpu gives it {len(found)} devices where {topology.devices} were expected"
        )
    return found


def _offered(chip: Chip, shape: tuple[int, ...]) -> bool:
    if math.prod(shape) > chip.largest:
        return False
    if chip.dimensions == 2:
        return shape in _FLAT_SHAPES
    return shape in _SMALL_SHAPES or all(size % 4 == 0 for size in shape)


def _shown(shape: Iterable[int]) -> str:
    return "x".join(str(size) for size in shape)


def _listed(names: Iterable[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last
