"""What devices say to each other in one step: every collective of a compiled program, by mesh axis."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from rnope_jax.planning.hlo import Computation, Instruction, Module, Source, array_bytes
from rnope_jax.planning.traffic import bytes_read

#: Operations through which devices talk, without the -start of their asynchronous forms.
KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")

#: Marks a transfer between slices, and tells what it is a part of.
_HANDED_OVER = re.compile(r'_xla_megascale_transfer_type="(\w+)"')

#: What passes an array on as it is.
_TRANSPARENT = ("bitcast", "copy", "reshape", "convert", "transpose", "copy-start", "copy-done")


@dataclass(frozen=True)
class Collective:
    """One collective operation of a program."""

    kind: str
    """One of `KINDS`."""
    axes: tuple[str, ...]
    """Mesh axes over which it runs, outermost first."""
    group: int
    """Devices that take part together."""
    sent: int
    """Bytes that each device sends in one run, with the least traffic that a ring needs."""
    times: int
    """How often it runs in a step."""
    name: str
    """In the program."""
    source: Source
    """Line of our code that it comes from, as far as the compiler kept it."""
    groups: np.ndarray
    """Positions in the mesh [groups, group]; for a permutation [pairs, 2]."""
    gathers: bool = False
    """An all-reduce that does the work of an all-gather: each device adds its part to zeros."""
    scatters: bool = False
    """An all-reduce that does the work of a reduce-scatter: each device looks at its part of the sum only."""

    @property
    def total(self) -> int:
        """Bytes that each device sends in a step."""
        return self.sent * self.times


def collectives(module: Module, mesh_shape: dict[str, int], slices_of_mesh: int = 1) -> list[Collective]:
    """The collectives of a program that is split over a mesh with these axes, outermost first.

    A program for several slices names the devices of one of them, which come first in the mesh, and
    hands what crosses slices to a library on the hosts.
    """
    found = []
    in_slice = math.prod(mesh_shape.values()) // slices_of_mesh
    slices, chains = _scattered(module), _chains(module)
    for computation, instruction, times in module.executed():
        if chain := _chain(instruction):
            if chain not in chains:
                continue
            times = chains.pop(chain)
        kind = instruction.opcode.removesuffix("-start").removeprefix("ragged-")
        across = _HANDED_OVER.search(instruction.attributes) if kind == "send" else None
        if across is not None:
            kind = across[1].lower().replace("_", "-")
        if kind not in KINDS:
            continue
        groups = device_groups(instruction, in_slice)
        if across is not None:
            groups = np.arange(0, in_slice * slices_of_mesh, in_slice)[None]
        if kind == "collective-permute":
            groups = groups[groups[:, 0] != groups[:, 1]]
        if groups.size == 0 or groups.shape[1] == 1:
            continue
        size = _operand_bytes(computation, instruction)
        if kind == "all-reduce" and computation.name in slices:
            kind = "reduce-scatter"
        found.append(
            Collective(
                kind=kind,
                axes=mesh_axes(groups, mesh_shape),
                group=groups.shape[1],
                sent=sent_bytes(kind, size, groups.shape[1]),
                times=times,
                name=instruction.name,
                source=module.source(slices.get(computation.name, instruction)),
                groups=groups,
                gathers=kind == "all-reduce" and _adds_to_zeros(module, computation, instruction),
                scatters=kind == "all-reduce" and _looks_at_part(module, computation, instruction, groups.shape[1]),
            )
        )
    return found


def _chain(instruction: Instruction) -> tuple[str, str] | None:
    """What names an operation that the compiler has spread over several others, to run beside them.

    Each of the others holds a copy of it, from the one that starts it to the one that ends it.
    """
    chain = re.search(r'chain_id="(\d+)"', instruction.attributes)
    channel = re.search(r"channel_id=(\d+)", instruction.attributes)
    return (chain[1], channel[1]) if chain and channel else None


def _chains(module: Module) -> dict[tuple[str, str], int]:
    """How often each such operation runs: as often as the rarest of its copies, which starts or ends it."""
    found: dict[tuple[str, str], int] = {}
    for _, instruction, times in module.executed():
        if chain := _chain(instruction):
            found[chain] = min(found.get(chain, times), times)
    return found


def sent_bytes(kind: str, size: int, group: int) -> int:
    """Bytes that each of `group` devices sends when its operands have `size` bytes."""
    match kind:
        case "all-gather":
            return size * (group - 1)
        case "all-reduce":
            return 2 * size * (group - 1) // group
        case "reduce-scatter" | "all-to-all":
            return size * (group - 1) // group
        case _:
            return size


def mesh_axes(groups: np.ndarray, mesh_shape: dict[str, int]) -> tuple[str, ...]:
    """The axes along which the devices of a group differ."""
    places = np.stack(np.unravel_index(groups, tuple(mesh_shape.values())), -1)  # [groups, group, axes]
    varies = (places != places[:, :1]).any((0, 1))
    return tuple(name for name, differs in zip(mesh_shape, varies, strict=True) if differs)


def device_groups(instruction: Instruction, devices: int) -> np.ndarray:
    """Which devices talk: positions in the mesh [groups, devices of a group], or [pairs, 2].

    Groups come as lists, {{0,1},{2,3}}; as a reshaped range, [2,2]<=[2,2]T(1,0); or as axes of a
    mesh, mesh['a'=2,'b'=2] {'b'}, of which an axis may be taken in part, {'b':(1)2}.
    """
    text = instruction.attributes
    if pairs := re.search(r"source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}", text):
        return np.array(re.findall(r"\d+", pairs[1]), int).reshape(-1, 2)
    if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\](?:, ?device_ids=\(([^)]*\)?)\))? ?\{([^}]*)\}", text):
        return _axis_groups(mesh[1], mesh[2], mesh[3])
    if listed := re.search(r"replica_groups=\{((?:\{[\d,]*\},?)*)\}", text):
        rows = [[int(n) for n in row.split(",")] for row in re.findall(r"\{([\d,]+)\}", listed[1])]
        return np.array(rows or [list(range(devices))])
    if iota := re.search(r"replica_groups=(\[[\d,]+\]<=\[[\d,]+\](?:T\([\d,]+\))?)", text):
        return _iota(iota[1])
    return np.arange(devices)[None]


def _iota(text: str) -> np.ndarray:
    """[2,2]<=[2,2]T(1,0): a range, shaped as the second list says, transposed, and reshaped as the first says."""
    parts = re.fullmatch(r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text)
    assert parts is not None
    result, source, order = ([int(n) for n in part.split(",")] if part else None for part in parts.groups())
    assert result is not None
    assert source is not None
    values = np.arange(math.prod(source)).reshape(source)
    return (values if order is None else values.transpose(order)).reshape(result)


def _axis_groups(axes: str, ids: str | None, used: str) -> np.ndarray:
    names, sizes = zip(*((name, int(size)) for name, size in re.findall(r"'([^']+)'=(\d+)", axes)), strict=True)
    if ids is None:
        places = np.arange(math.prod(sizes))
    elif "<=" in ids:
        places = _iota(ids)
    elif match := re.fullmatch(r"\[([\d,]+)\]T\(([\d,]+)\)?", ids):
        shape, order = ([int(n) for n in part.split(",")] for part in match.groups())
        places = np.arange(math.prod(shape)).reshape(shape).transpose(order)
    else:
        places = np.array(re.findall(r"\d+", ids), int)
    # Each axis in three parts: what lies before a part that is taken, the part, and what lies after it.
    shape_of = {name: [1, 1, size] for name, size in zip(names, sizes, strict=True)}
    for name, before, part in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", used):
        size = dict(zip(names, sizes, strict=True))[name]
        shape_of[name] = [int(before), int(part), size // int(before) // int(part)] if part else [1, size, 1]
    split = places.reshape([n for name in names for n in shape_of[name]])
    taken = [3 * i + 1 for i in range(len(names))]
    rest = [i for i in range(split.ndim) if i not in taken]
    group = math.prod(split.shape[i] for i in taken)
    return split.transpose(rest + taken).reshape(-1, group)


def _operand_bytes(computation: Computation, instruction: Instruction) -> int:
    """Bytes of the operands."""
    shapes = [computation.instructions[name].shape for name in instruction.operands if name in computation.instructions]
    return sum(sum(array_bytes(shape)) for shape in shapes)


def _scattered(module: Module) -> dict[str, Instruction]:
    """Fused computations that sum over devices and keep this device's part, each with the fusion that runs it.

    TPUs write a reduce-scatter so.
    """
    found = {}
    for outer in module.computations.values():
        for fusion in outer.instructions.values():
            if fusion.opcode != "fusion":
                continue
            inner = module.computations[dict(fusion.callees)["calls"]]
            root = inner.root
            while root is not None and root.opcode in _TRANSPARENT:
                root = inner.instructions.get(root.operands[0])
            sums = any(instruction.opcode == "all-reduce" for instruction in inner.instructions.values())
            if sums and root is not None and root.opcode == "dynamic-slice":
                found[inner.name] = fusion
    return found


def _looks_at_part(module: Module, computation: Computation, instruction: Instruction, group: int) -> bool:
    """Whether what is used of a sum is no more than one of `group` parts of it."""
    names = [instruction.name]
    if instruction.shape.startswith("("):
        names = [user.name for user in computation.instructions.values() if instruction.name in user.operands]
    read = [bytes_read(module, computation, name) for name in names]
    return sum(array_bytes(instruction.shape)) > 2**20 and 0 < group * sum(read) <= sum(array_bytes(instruction.shape))


def _adds_to_zeros(module: Module, computation: Computation, instruction: Instruction) -> bool:
    """Whether every operand is this device's part in an array of zeros."""
    return all(_is_part_in_zeros(module, computation, name) for name in instruction.operands)


def _is_part_in_zeros(module: Module, computation: Computation, name: str) -> bool:
    instruction = computation.instructions.get(name)
    while instruction is not None and instruction.opcode in _TRANSPARENT:
        instruction = computation.instructions.get(instruction.operands[0])
    if instruction is None:
        return False
    if instruction.opcode == "fusion":
        inner = module.computations.get(dict(instruction.callees).get("calls", ""))
        instruction = inner.root if inner is not None else None
        while inner is not None and instruction is not None and instruction.opcode in _TRANSPARENT:
            instruction = inner.instructions.get(instruction.operands[0])
    return instruction is not None and instruction.opcode == "dynamic-update-slice"


def by_axes(found: Sequence[Collective]) -> Iterator[tuple[str, tuple[str, ...], list[Collective]]]:
    """Collectives of one kind over the same axes, those that send most first."""
    together: dict[tuple[str, tuple[str, ...]], list[Collective]] = {}
    for collective in found:
        together.setdefault((collective.kind, collective.axes), []).append(collective)
    for (kind, axes), members in sorted(together.items(), key=lambda item: -sum(c.total for c in item[1])):
        yield kind, axes, members
