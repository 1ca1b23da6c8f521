"""How long a step takes at least: by arithmetic, by memory, by links."""

from collections.abc import Sequence
from dataclasses import dataclass

from rnope_jax import flops
from rnope_jax.config import Config, ModelConfig
from rnope_jax.planning.collectives import Collective, by_axes
from rnope_jax.planning.network import Network
from rnope_jax.planning.topology import Topology

#: Products of attention per pair of query and key: 2 forward and, where nothing of size S x S is
#: kept, 5 backward (FlashAttention, arXiv 2205.14135). Model FLOPs count 4 backward.
_RECOMPUTED_PRODUCTS = 1 / 2


@dataclass(frozen=True)
class Roofline:
    """Times of one step in seconds, each as if it were all that a device had to do."""

    model_flops: int
    """Of the whole step on all devices: forward and backward."""
    recomputed_flops: int
    """What is computed twice, because it was not kept."""
    traffic: int
    """Bytes between memory and cores of one device."""
    compute: float
    memory: float
    links: dict[str, float]
    """By mesh axes, or "between slices"."""
    tokens: int
    """Of the whole step."""
    chips: int

    @property
    def parts(self) -> dict[str, float]:
        """Every resource, and how long a step keeps it busy."""
        return {"compute": self.compute, "memory": self.memory, **self.links}

    @property
    def seconds(self) -> float:
        """The least time of a step: everything runs beside the resource that is busy longest."""
        within = sum(value for name, value in self.links.items() if name != BETWEEN_SLICES)
        return max(self.compute, self.memory, within, self.links.get(BETWEEN_SLICES, 0.0))

    @property
    def sequential(self) -> float:
        """The time of a step if transfers never ran beside computation."""
        return max(self.compute, self.memory) + sum(self.links.values())

    @property
    def bound(self) -> str:
        """The resource that is busy longest."""
        return max(self.parts, key=lambda name: self.parts[name])

    @property
    def tokens_per_second_per_chip(self) -> float:
        """At the least time."""
        return self.tokens / self.seconds / self.chips

    @property
    def utilisation(self) -> float:
        """Model FLOPs over what the chips could do in the least time (MFU)."""
        return self.compute * self.model_flops / (self.model_flops + self.recomputed_flops) / self.seconds


#: The name of transfers over the data-centre network among `Roofline.links`.
BETWEEN_SLICES = "between slices"


def roofline(
    config: Config, stage_index: int, topology: Topology, network: Network, found: Sequence[Collective], traffic: int
) -> Roofline:
    """The least times of a stage's step; rows count as one document each."""
    stage, shape, chip = config.stages[stage_index], config.stage_model(stage_index), topology.chip
    lengths = [stage.sequence_length] * stage.batch_size
    useful, again = flops.training_flops(shape, lengths), recomputed_flops(shape, lengths)
    links: dict[str, float] = {}
    for _, axes, members in by_axes(found):
        for member in members:
            name = BETWEEN_SLICES if network.crosses_slices(member.groups) else " + ".join(axes)
            links[name] = links.get(name, 0.0) + network.seconds(member)
    return Roofline(
        model_flops=useful,
        recomputed_flops=again,
        traffic=traffic,
        compute=(useful + again) / (topology.chips * chip.flops),
        memory=traffic / (chip.hbm_bandwidth / chip.devices),
        links=dict(sorted(links.items(), key=lambda item: -item[1])),
        tokens=sum(lengths),
        chips=topology.chips,
    )


def recomputed_flops(model: ModelConfig, lengths: Sequence[int]) -> int:
    """FLOPs that the backward pass repeats: layers as `model.remat` says, and always logits and attention scores."""
    tokens = sum(lengths)
    head = 2 * model.vocab_size * model.d_model * tokens
    matrices = 2 * model.num_layers * flops.layer_matrix_parameters(model) * tokens
    attention = flops.forward_flops(model, lengths) - head - matrices
    again = {"none": 0, "attention": matrices, "offload": matrices}.get(model.remat, matrices + attention)
    return head + again + round(_RECOMPUTED_PRODUCTS * attention)
