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

#: Operations through which a fusion runs other computations that it is not one piece with.
_RUNS_OTHERS = ("while", "conditional", "call", "async-start", "call-start")

_ELEMENT = re.compile(r"\w+\[[\d,]*\](?:\{[^}]*\})?")

#: A layout that names a memory space other than the first: on-chip memory.
_ON_CHIP = re.compile(r"S\([1-9]\d*\)")


def memory_traffic(module: Module) -> int:
    """Bytes that one device reads from and writes to its memory in one run."""
    fused = {
        name
        for computation in module.computations.values()
        for instruction in computation.instructions.values()
        if instruction.opcode not in _RUNS_OTHERS
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
    match instruction.opcode:
        case "copy-start":  # (result, operand, context)
            return _outside(shapes[0]) + _outside(_elements(instruction.shape)[0])
        case "slice-start":  # ((operand), result, context)
            result = _elements(instruction.shape)[1]
            return sum(array_bytes(result)) + _outside(result)
        case "slice" | "dynamic-slice" | "gather":
            return 2 * _outside(instruction.shape)
        case "dynamic-update-slice":
            return 2 * _outside(shapes[1])
        case "fusion":
            return _fusion(module, instruction, shapes)
        case opcode if opcode.endswith("-start"):
            return 2 * sum(map(_outside, shapes))
        case _:
            return _outside(instruction.shape) + sum(map(_outside, shapes))


def _fusion(module: Module, instruction: Instruction, shapes: list[str]) -> int:
    """A fusion reads only the slices that it takes of an operand, and writes only those that it updates."""
    inner = module.computations[dict(instruction.callees)["calls"]]
    results = _elements(instruction.shape)
    if any("chain_id" in i.attributes for i in inner.instructions.values()):
        # A part of a collective that runs beside other work: its buffers pass through in place.
        for result, operand in re.findall(r"\{(\d+)\}: \((\d+), \{\}", instruction.attributes):
            results[int(result)] = shapes[int(operand)] = ""
    total = 0
    for index, shape in enumerate(shapes):
        if size := _outside(shape):
            total += min(bytes_read(module, inner, _parameter(inner, index)), size)
    roots = [inner.root.name] if inner.root is not None else []
    if inner.root is not None and inner.root.opcode == "tuple":
        roots = list(inner.root.operands)
    for result, name in zip(results, roots, strict=False):
        if size := _outside(result):
            total += min(_written(module, inner, name), size)
    return total


def _parameter(computation: Computation, index: int) -> str:
    """The name of a computation's parameter."""
    for name, instruction in computation.instructions.items():
        if instruction.opcode == "parameter" and int(instruction.operands[0]) == index:
            return name
    return ""


def bytes_read(module: Module, computation: Computation, name: str) -> int:
    """Bytes of a value that the operations of its computation look at, each use for itself."""
    total = 0
    for user in computation.instructions.values():
        for place, operand in enumerate(user.operands):
            if operand != name:
                continue
            match user.opcode:
                case "dynamic-slice" | "slice":
                    total += sum(array_bytes(user.shape)) if place == 0 else 0
                case "dynamic-update-slice" if place == 0:
                    pass  # stays where it is
                case "bitcast":
                    total += bytes_read(module, computation, user.name)
                case "fusion":
                    inner = module.computations[dict(user.callees)["calls"]]
                    total += bytes_read(module, inner, _parameter(inner, place))
                case _:
                    return sum(array_bytes(computation.instructions[name].shape))
    return total


def _written(module: Module, computation: Computation, name: str) -> int:
    """Bytes that a fused computation writes to make a value: of one updated in place, the update."""
    instruction = computation.instructions.get(name)
    if instruction is None:
        return 0
    match instruction.opcode:
        case "dynamic-update-slice":
            update = computation.instructions.get(instruction.operands[1])
            return sum(array_bytes(update.shape)) if update is not None else 0
        case "bitcast":
            return _written(module, computation, instruction.operands[0])
        case "parameter":
            return 0
        case "fusion":
            inner = module.computations[dict(instruction.callees)["calls"]]
            if inner.root is not None and inner.root.opcode != "tuple":
                return _written(module, inner, inner.root.name)
    return sum(array_bytes(instruction.shape))


def _elements(shape: str) -> list[str]:
    """The arrays of a type, each as text."""
    return _ELEMENT.findall(shape)


def _outside(shape: str) -> int:
    """Bytes of the arrays in the text of a type that lie in the device's main memory."""
    return sum(sum(array_bytes(element)) for element in _elements(shape) if not _ON_CHIP.search(element))
