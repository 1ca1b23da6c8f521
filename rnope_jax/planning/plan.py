"""A plan: whether a stage fits on a topology, what its step says and does there, and how long it takes."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import jax
from jax.sharding import Mesh

from rnope_jax import attention, flops, model
from rnope_jax.config import Config
from rnope_jax.planning import topology as topologies
from rnope_jax.planning.collectives import Collective, by_axes, collectives
from rnope_jax.planning.compiling import Compiled, compile_step
from rnope_jax.planning.context_traffic import ContextTraffic, context_traffic
from rnope_jax.planning.hlo import Module
from rnope_jax.planning.memory import Memory, account
from rnope_jax.planning.network import Network
from rnope_jax.planning.roofline import Roofline, roofline
from rnope_jax.planning.search import Largest, largest_batch
from rnope_jax.planning.topology import Topology
from rnope_jax.planning.traffic import memory_traffic
from rnope_jax.sharding import make_mesh, splits_torus
from rnope_jax.xla_flags import compiler_options

#: Bytes that a device sends in a step more than it needs, below which nothing is said of it.
_WORTH_A_NOTE = 64 * 2**20


@dataclass(frozen=True)
class Talk:
    """All collectives of one kind over the same mesh axes, in one step."""

    kind: str
    axes: tuple[str, ...]
    operations: int
    """In the program."""
    runs: int
    """In a step."""
    sent: int
    """Bytes that each device sends."""
    seconds: float
    """If nothing else used the links."""
    between_slices: bool
    largest: tuple[str, ...]
    """Where the largest ones come from."""


@dataclass(frozen=True)
class Plan:
    """All that was found out about one stage on one topology."""

    name: str
    stage: str
    topology: Topology
    mesh: dict[str, int]
    parameters: int
    sequence_length: int
    batch_size: int
    accumulation: int
    backends: dict[str, str]
    """Attention backend by layer kind."""
    options: dict[str, str | bool]
    """Of the compiler."""
    compiled: Compiled
    memory: Memory
    talks: tuple[Talk, ...]
    roofline: Roofline | None
    """None if the program does not fit: then there is none to look at."""
    context: ContextTraffic | None
    """None unless the mesh splits sequences."""
    largest: Largest
    remarks: tuple[str, ...]
    """What the program does that it should not."""

    @property
    def fits(self) -> bool:
        """Whether the step fits into the memory of a device."""
        return not self.compiled.refusal and self.memory.spare >= 0

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON can hold it; bytes, seconds, FLOPs."""
        memory = {**asdict(self.memory), "total": self.memory.total, "spare": self.memory.spare}
        found: dict[str, Any] = {
            "name": self.name,
            "stage": self.stage,
            "topology": str(self.topology),
            "chips": self.topology.chips,
            "devices": self.topology.devices,
            "mesh": self.mesh,
            "parameters": self.parameters,
            "sequence_length": self.sequence_length,
            "batch_size": self.batch_size,
            "accumulation": self.accumulation,
            "attention": self.backends,
            "compiler_options": self.options,
            "compile_seconds": round(self.compiled.seconds, 1),
            "fits": self.fits,
            "compiler_message": self.compiled.refusal or None,
            "memory_per_device": memory,
            "collectives": [asdict(talk) for talk in self.talks],
            "largest_batch": asdict(self.largest),
            "remarks": list(self.remarks),
            "roofline": None,
            "context_parallelism": None if self.context is None else asdict(self.context),
        }
        if self.roofline is not None:
            found["roofline"] = {
                **asdict(self.roofline),
                "seconds": self.roofline.seconds,
                "sequential_seconds": self.roofline.sequential,
                "bound": self.roofline.bound,
                "tokens_per_second_per_chip": self.roofline.tokens_per_second_per_chip,
                "utilisation": self.roofline.utilisation,
            }
        return found


def make_plan(config: Config, stage_index: int, topology: Topology, *, search: bool = False) -> Plan:
    """Compiles the step of a stage for a topology and looks into it.

    Args:
      config: the run.
      stage_index: which of its stages.
      topology: where it would run.
      search: compile other batch sizes as well, to find the largest that fits.

    Raises:
      UserError: if model or batch cannot be split over the devices, or the compiler is not installed.
    """
    devices = topologies.devices(topology)
    mesh = make_mesh(config.mesh, devices)
    model.shardings(config.model, mesh)
    options = compiler_options(devices[0].platform)
    compiled = compile_step(config, stage_index, mesh, options)
    limit = topology.chip.usable_hbm // topology.chip.devices
    memory = account(config, stage_index, mesh, compiled, limit)
    network = Network(topology, list(mesh.devices.flat))
    module = Module(compiled.text) if compiled.text else None
    found = collectives(module, dict(mesh.shape), topology.slices) if module is not None else []
    stage = config.stages[stage_index]
    return Plan(
        name=config.name,
        stage=stage.name,
        topology=topology,
        mesh=dict(mesh.shape),
        parameters=flops.parameters(config.model).total,
        sequence_length=stage.sequence_length,
        batch_size=stage.batch_size,
        accumulation=stage.accumulation,
        backends=_backends(config, mesh),
        options=options,
        compiled=compiled,
        memory=memory,
        talks=tuple(_talks(found, network)),
        roofline=roofline(config, stage_index, topology, network, found, memory_traffic(module)) if module else None,
        context=context_traffic(config, stage_index, mesh, found),
        largest=largest_batch(config, stage_index, mesh, compiled, limit, options, compiling=search),
        remarks=tuple(remarks(found, compiled, mesh)),
    )


def remarks(found: Sequence[Collective], compiled: Compiled, mesh: Mesh) -> Iterable[str]:
    """What a program should not do, in words."""
    if splits_torus(mesh):
        sizes = ", ".join(f"mesh.{name} = {size}" for name, size in mesh.shape.items() if size > 1)
        yield f"{sizes}: axes share a dimension of the torus, so they have no closed rings; whole dimensions are faster"
    for warning in compiled.warnings:
        yield f"the compiler copies an array to every device to split it anew: {warning}"
    for what, members in (
        ("all-gathers", [c for c in found if c.gathers]),
        ("reduce-scatters", [c for c in found if c.scatters]),
    ):
        sent = sum(c.total for c in members)
        if sent > _WORTH_A_NOTE:
            yield f"all-reduces do the work of {what}: {len(members)} send {sent / 2**30:.1f} GiB, twice what is needed"
    for collective in found:
        if collective.kind == "all-to-all":
            yield f"all-to-all over {' + '.join(collective.axes)} at {collective.source.line} ({collective.name})"


def _talks(found: Sequence[Collective], network: Network) -> Iterable[Talk]:
    for kind, axes, members in by_axes(found):
        places = dict.fromkeys(member.source.line for member in sorted(members, key=lambda m: -m.total))
        yield Talk(
            kind=kind,
            axes=axes,
            operations=len(members),
            runs=sum(member.times for member in members),
            sent=sum(member.total for member in members),
            seconds=sum(network.seconds(member) for member in members),
            between_slices=any(network.crosses_slices(member.groups) for member in members),
            largest=tuple([place for place in places if place][:3]),
        )


def _backends(config: Config, mesh: Mesh) -> dict[str, str]:
    """What computes attention on the devices of `mesh`, whatever this machine has."""
    with jax.set_mesh(mesh):
        return {str(kind): attention.choose(config.model.attention, kind.window) for kind in config.model.layer_kinds}
