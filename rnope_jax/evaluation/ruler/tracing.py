"""RULER's variable tracking: a chain of assignments, hidden among lines that say nothing."""

import random
import string
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from rnope_jax.evaluation.ruler.fitting import fit
from rnope_jax.evaluation.ruler.samples import NOISE, Draft, Drawing, insert

TEMPLATE = (
    "Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n{context}\nQuestion: Find "
    "all variables that are assigned the value {query} in the text above."
)
#: With NVIDIA's spelling.
ANSWER_PREFIX = (
    " Answer: According to the chain(s) of variable assignment in the text above, {num_v} variables are assgined the "
    "value {query}, they are: "
)


@dataclass(frozen=True)
class Tracing:
    """How long the chain is, and what stands before it."""

    hops: int = 4
    """Assignments after the first."""
    example: int = 500
    """Tokens of the worked example; 0 for none."""
    brief: bool = False


VARIANTS = (
    Tracing(),
    Tracing(example=200),
    Tracing(example=0),
    Tracing(example=0, brief=True),
    Tracing(example=0, hops=3, brief=True),
    Tracing(example=0, hops=2, brief=True),
    Tracing(example=0, hops=1, brief=True),
)


def draft(drawing: Drawing, tracing: Tracing) -> Draft:
    """A sample of variable tracking."""
    rng, hops = drawing.rng, tracing.hops
    example = _example(drawing, tracing) if tracing.example else ""
    names, value = _names(rng, hops + 1, 5), str(rng.randint(10000, 99999))
    text = _Chain(example, names, value, [rng.random() for _ in names])

    def others(units: int) -> dict[str, Any]:
        return {"chains": 1, "hops": hops, "haystack_units": units, "examples": int(bool(example))}

    return Draft(
        text=text,
        answer_prefix=ANSWER_PREFIX.format(num_v=hops + 1, query=value),
        outputs=tuple(names),
        answer=" ".join(names),
        least=1,
        others=others,
    )


def _example(drawing: Drawing, tracing: Tracing) -> str:
    """A solved sample with shorter names."""
    names = _names(drawing.rng, tracing.hops + 1, 3)
    value = str(drawing.rng.randint(10000, 99999))
    text = _Chain("", names, value, [drawing.rng.random() for _ in names])
    answer = f"{ANSWER_PREFIX.format(num_v=len(names), query=value)} {' '.join(names)}\n\n"
    size = fit(text, tracing.example, lambda text: drawing.count(text + answer), 1)
    return text.build(size.units if size else 1, 0) + answer


def _names(rng: random.Random, count: int, letters: int) -> list[str]:
    """Different names of capital letters."""
    numbers = rng.sample(range(26**letters), count)
    return ["".join(string.ascii_uppercase[number // 26**place % 26] for place in range(letters)) for number in numbers]


class _Chain:
    """The assignments in their order, somewhere among the lines."""

    most = 1 << 40

    def __init__(self, example: str, names: list[str], value: str, places: list[float]):
        self._example, self._value, self._places = example, value, places
        self._chain = [f"VAR {names[0]} = {value}"]
        self._chain += [f"VAR {name} = VAR {before} " for before, name in pairwise(names)]

    def build(self, units: int, letters: int) -> str:
        # Lines end after noise only; an assignment stands before the noise that follows it.
        parts = insert([f"{NOISE}\n"] * units, self._chain, self._places)
        if letters:
            parts.append(self.filler(units)[:letters])
        return self._example + TEMPLATE.format(context=" ".join(parts), query=self._value)

    def filler(self, units: int) -> str:
        return NOISE
