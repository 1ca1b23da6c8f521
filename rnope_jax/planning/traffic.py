"""Bytes that a program moves between memory and cores, counted operation by operation.

XLA's own count sees the body of a loop once; this one sees it as often as it runs. Arrays that the
compiler has placed in on-chip memory are left out. Kernels count with their operands and results.
"""

import re

from rnope_jax.planning.hlo import Computation, Instruction, Module, array_bytes

#: Operations that move nothing themselves.
_FREE = frozenset(
    (
        *("parameter", "constant", "iota", "partition-id", "replica-id", "after-all", "opt-barrier"),
        *("tuple", "get-tuple-element", "bitcast"),
        *("while", "conditional", "call", "call-start", "call-done", "async-start", "async-update", "async-done"),
    )
)

#: An array in on-chip memory: its layout names a memory space other than the first.
_ON_CHIP = re.compile(r"\w+\[[\d,]*\]\{[^}]*S\([1-9]\d*\)[^}]*\}")


def memory_traffic(module: Module) -> int:
    """Bytes that one device reads from and writes to its memory in one run."""
    fused = {
        name
        for computation in module.computations.values()
        for instruction in computation.instructions.values()
        if instruction.opcode not in ("while", "conditional", "call", "async-start", "call-start")
        for _, name in instruction.callees
    }
    return sum(
        times * _moved(module, computation, instruction)
        for computation, instruction, times in module.executed()
        if computation.name not in fused
    )


def _moved(module: Module, computation: Computation, instruction: Instruction) -> int:
    if instruction.opcode in _FREE or instruction.opcode.endswith("-done"):
        return 0
    found = computation.instructions
    shapes = [found[name].shape if name in found else "" for name in instruction.operands]
    if instruction.opcode.endswith("-start"):
        return 2 * sum(map(_outside, shapes))  # read here, written there
    if instruction.opcode == "dynamic-slice":
        return 2 * _outside(instruction.shape)
    if instruction.opcode == "dynamic-update-slice":
        return 2 * _outside(shapes[1])
    if instruction.opcode == "fusion":
        return _fusion(module, instruction, shapes)
    return _outside(instruction.shape) + sum(map(_outside, shapes))


def _fusion(module: Module, instruction: Instruction, shapes: list[str]) -> int:
    """A fusion reads only the slices that it takes of an operand, and writes only those that it updates."""
    inner = module.computations[dict(instruction.callees)["calls"]]
    parameters = {int(i.operands[0]): name for name, i in inner.instructions.items() if i.opcode == "parameter"}
    users: dict[str, list[Instruction]] = {}
    for user in inner.instructions.values():
        for name in user.operands:
            users.setdefault(name, []).append(user)
    total, updated = 0, 0
    for index, shape in enumerate(shapes):
        name = parameters.get(index, "")
        uses = users.get(name, [])
        if uses and all(use.opcode == "dynamic-slice" for use in uses):
            total += sum(sum(array_bytes(use.shape)) for use in uses) if _outside(shape) else 0
        elif uses and all(use.opcode == "dynamic-update-slice" and use.operands[0] == name for use in uses):
            changes = [inner.instructions[use.operands[1]].shape for use in uses]
            total += sum(sum(array_bytes(change)) for change in changes)
            updated += _outside(shape)
        else:
            total += _outside(shape)
    return total + max(_outside(instruction.shape) - updated, 0)


def _outside(shape: str) -> int:
    """Bytes of the arrays in the text of a type that lie in the device's main memory."""
    return sum(array_bytes(_ON_CHIP.sub("", shape)))
