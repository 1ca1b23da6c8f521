"""What splitting sequences costs in messages, next to what it would cost to gather every layer's keys and values."""

from collections.abc import Sequence
from dataclasses import dataclass

from jax.sharding import Mesh

from rnope_jax.config import Config
from rnope_jax.planning.collectives import Collective
from rnope_jax.sharding import CONTEXT

#: The module whose messages these are, and its function through which window layers send.
_MODULE, _HALO = "attention/context.py", "_send"


@dataclass(frozen=True)
class ContextTraffic:
    """Bytes that a device sends in one step for context parallelism, on average over the devices.

    The first chunk of a row gets no halo, and the two in the middle share a device.
    """

    halos: int
    """Between neighbours, for window layers."""
    gathers: int
    """Keys and values, and the sums of their gradients, for full layers."""
    gathered_everywhere: int
    """If window layers gathered as well."""

    @property
    def ratio(self) -> float:
        """What is sent as a part of what gathering everywhere would send."""
        return (self.halos + self.gathers) / self.gathered_everywhere if self.gathered_everywhere else 0.0


def context_traffic(config: Config, stage_index: int, mesh: Mesh, found: Sequence[Collective]) -> ContextTraffic | None:
    """The messages of context parallelism in a compiled step; None if the mesh does not split sequences.

    What a window layer would send if it gathered is what the full layers of the same program send.
    """
    if mesh.shape[CONTEXT] == 1:
        return None
    own = [c for c in found if c.source.line.startswith(_MODULE) and c.axes == (CONTEXT,)]
    halos = sum(_average(c, mesh) for c in own if c.source.function == _HALO)
    gathers = sum(_average(c, mesh) for c in own if c.source.function != _HALO)
    length = config.stages[stage_index].sequence_length
    kinds = config.stage_model(stage_index).layer_kinds
    full = sum(kind.visible_keys(length - 1) == length for kind in kinds)
    return ContextTraffic(halos, gathers, gathers * len(kinds) // full if full else 0)


def _average(collective: Collective, mesh: Mesh) -> int:
    if collective.kind != "collective-permute":
        return collective.total
    return collective.total * len(collective.groups) // mesh.size
