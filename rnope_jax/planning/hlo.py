"""Reading a compiled program: its computations, how often each runs, and where an operation comes from.

Works on the text of an optimised HLO module, as `Compiled.as_text` gives it on CPU and TPU.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import NamedTuple

_BITS = {"pred": 8, "bf16": 16, "token": 0, "opaque": 0}

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,<=]*)\]")
_CALLEE = re.compile(r"\b(calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"\b(?:branch_computations|called_computations)=\{([^}]*)\}")
_KNOWN_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


class Instruction(NamedTuple):
    """One operation."""

    name: str
    shape: str
    """Type of the result, as text; a tuple in parentheses."""
    opcode: str
    operands: tuple[str, ...]
    """Names; for a constant, its value."""
    attributes: str
    """What follows the operands."""

    @property
    def callees(self) -> list[tuple[str, str]]:
        """Computations that this one runs, each with its role."""
        found = [(role, name) for role, name in _CALLEE.findall(self.attributes)]
        for names in _BRANCHES.findall(self.attributes):
            found += [("branch", name.strip().lstrip("%")) for name in names.split(",")]
        return found


class Source(NamedTuple):
    """A place in our code."""

    line: str
    """File, line and what jax calls the operation: model/block.py:83 dot_general."""
    function: str
    """In which that line stands."""


@dataclass
class Computation:
    """Operations by name, in order."""

    name: str
    instructions: dict[str, Instruction] = field(default_factory=dict)
    root: Instruction | None = None


class Module:
    """A compiled program.

    Args:
      text: of the optimised HLO.
    """

    def __init__(self, text: str):
        self.computations: dict[str, Computation] = {}
        self.entry = ""
        self._text = text
        current: Computation | None = None
        last = ""
        for line in text.splitlines():
            if current is None:
                if match := _COMPUTATION.match(line):
                    current = self.computations[match[2]] = Computation(match[2])
                    self.entry = match[2] if match[1] else self.entry
            elif line == "}" or line.startswith("}, "):
                current = None
            elif match := _INSTRUCTION.match(line):
                instruction = _parse(match[2], line[match.end() :])
                last = instruction.name
                current.instructions[last] = instruction
                if match[1]:
                    current.root = instruction
            elif last in current.instructions:
                # The description of a kernel runs over several lines; what follows it is the kernel's still.
                before = current.instructions[last]
                current.instructions[last] = before._replace(attributes=before.attributes + line)

    @cached_property
    def runs(self) -> Counter[str]:
        """How often each computation runs in one run of the program; every branch counts as taken."""
        runs = Counter({self.entry: 1})
        # A computation is printed before those that call it.
        for computation in reversed(self.computations.values()):
            times = runs[computation.name]
            for instruction in computation.instructions.values() if times else ():
                if instruction.opcode.endswith(("-done", "-update")):
                    continue  # repeats the computation that the start has run
                inner = times * (self.trips(computation, instruction) if instruction.opcode == "while" else 1)
                for _, name in instruction.callees:
                    runs[name] += inner
        return runs

    def trips(self, computation: Computation, loop: Instruction) -> int:
        """How often a loop's body runs; 1 if the text does not tell."""
        if known := _KNOWN_TRIPS.search(loop.attributes):
            return int(known[1])
        condition = self.computations[dict(loop.callees)["condition"]]
        compare = condition.root
        if compare is not None and compare.opcode == "fusion":
            inner = self.computations[dict(compare.callees)["calls"]]
            condition, compare = _inlined(inner, compare, condition), inner.root
        if compare is None or compare.opcode != "compare" or "direction=LT" not in compare.attributes:
            return 1
        counter, limit = (condition.instructions.get(name) for name in compare.operands)
        if counter is None or limit is None or limit.opcode != "constant":
            return 1
        return max(int(limit.operands[0]) - self._start(computation, loop, counter), 0)

    def _start(self, computation: Computation, loop: Instruction, counter: Instruction) -> int:
        """The value with which a loop's counter begins."""
        index = re.search(r"index=(\d+)", counter.attributes)
        initial = computation.instructions.get(loop.operands[0])
        if index is None or initial is None or initial.opcode != "tuple":
            return 0
        value = computation.instructions.get(initial.operands[int(index[1])])
        while value is not None and value.opcode in ("copy", "bitcast", "copy-done", "copy-start"):
            value = computation.instructions.get(value.operands[0])
        return int(value.operands[0]) if value is not None and value.opcode == "constant" else 0

    def executed(self) -> Iterator[tuple[Computation, Instruction, int]]:
        """Every operation, the computation that it stands in, and how often it runs."""
        for computation in self.computations.values():
            if times := self.runs[computation.name]:
                for instruction in computation.instructions.values():
                    yield computation, instruction, times

    def source(self, instruction: Instruction, package: str = "rnope_jax") -> Source:
        """Where in `package` an operation comes from: the innermost line."""
        name = re.search(r'op_name="([^"]*)"', instruction.attributes)
        frame = re.search(r"stack_frame_id=(\d+)", instruction.attributes)
        operation = name[1].rsplit("/", 1)[-1] if name else ""
        number = int(frame[1]) if frame else 0
        while number in self._frames:
            location, parent = self._frames[number]
            file, function, line = self._locations.get(location, ("", "", 0))
            if f"/{package}/" in file:
                return Source(f"{file.rsplit(f'/{package}/', 1)[1]}:{line} {operation}".strip(), function)
            # Written one more than it is, so that the outermost refers to none.
            number = parent - 1 if parent - 1 < number else 0
        return Source(operation, "")

    @cached_property
    def _frames(self) -> dict[int, tuple[int, int]]:
        found = re.findall(r"^(\d+) \{file_location_id=(\d+)(?: parent_frame_id=(\d+))?", self._text, re.MULTILINE)
        return {int(number): (int(location), int(parent or 0)) for number, location, parent in found}

    @cached_property
    def _locations(self) -> dict[int, tuple[str, str, int]]:
        files, functions = (self._names(section) for section in ("FileNames", "FunctionNames"))
        pattern = r"^(\d+) \{file_name_id=(\d+) function_name_id=(\d+) line=(\d+)"
        found = re.findall(pattern, self._text, re.MULTILINE)
        return {
            int(number): (files.get(file, ""), functions.get(function, ""), int(line))
            for number, file, function, line in found
        }

    def _names(self, section: str) -> dict[str, str]:
        """A table of numbers and names at the head of the text."""
        table = self._text.partition(f"\n{section}\n")[2].partition("\n\n")[0]
        return dict(re.findall(r'^(\d+) "(.*)"$', table, re.MULTILINE))


def array_bytes(shape: str) -> list[int]:
    """Bytes of each array in the text of a type, without the padding of tiled layouts."""
    return [
        -(-_bits(name) * prod(int(n) for n in re.findall(r"\d+", sizes)) // 8) for name, sizes in _ARRAY.findall(shape)
    ]


def _bits(name: str) -> int:
    if name in _BITS:
        return _BITS[name]
    digits = re.search(r"\d+", name)  # f32, s8, u4, f8e4m3fn, c64
    return int(digits[0]) if digits else 0


def _parse(name: str, text: str) -> Instruction:
    """An operation from what follows "name = "."""
    end = _closing(text, 0) + 1 if text.startswith("(") else text.index(" ")
    shape, rest = text[:end], text[end + 1 :]
    opening = rest.index("(")
    closing = _closing(rest, opening)
    inner = rest[opening + 1 : closing]
    opcode = rest[:opening]
    operands = (inner,) if opcode in ("constant", "parameter") else tuple(re.findall(r"%([\w.\-]+)", inner))
    return Instruction(name, shape, opcode, operands, rest[closing + 1 :])


def _closing(text: str, opening: int) -> int:
    """Where the parenthesis that opens at `opening` closes."""
    depth = 0
    for match in re.compile(r"[()]").finditer(text, opening):
        depth += 1 if match[0] == "(" else -1
        if not depth:
            return match.start()
    return len(text)


def _inlined(inner: Computation, call: Instruction, outer: Computation) -> Computation:
    """A fused computation in which parameters stand for the operations given for them."""
    found = Computation(inner.name)
    for name, instruction in inner.instructions.items():
        if instruction.opcode == "parameter":
            given = outer.instructions[call.operands[int(instruction.operands[0])]]
            found.instructions[name] = given
        else:
            found.instructions[name] = instruction
    return found
