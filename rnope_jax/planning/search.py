"""The largest batch that fits, from few compiles."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from jax.sharding import Mesh

from rnope_jax.config import Config
from rnope_jax.planning.compiling import Compiled, compile_step
from rnope_jax.sharding import batch_parts


@dataclass(frozen=True)
class Largest:
    """The largest batch."""

    rows: int
    """Of the whole batch, with the stage's number of micro-batches; 0 if not even one row per device fits."""
    confirmed: bool
    """Whether a compile has shown that it fits; otherwise it is an estimate on the safe side."""
    compiles: int
    """Beyond the first."""


def largest_batch(
    config: Config,
    stage_index: int,
    mesh: Mesh,
    first: Compiled,
    limit: int,
    options: Mapping[str, str | bool],
    *,
    compiling: bool,
) -> Largest:
    """The most rows that fit into `limit` bytes of each device.

    Without `compiling`, takes all temporaries to grow with the rows, of which a part does not: more
    may fit. With it, a second size gives the part that grows, and the result of the line through
    both is compiled; where the compiler refuses it, the next smaller one that the line allows.
    """
    stage = config.stages[stage_index]
    unit = batch_parts(mesh) * stage.accumulation
    rows = stage.batch_size // unit  # per device and micro-batch
    fixed = first.arguments + first.outputs + first.code
    if first.temporaries == 0:
        return Largest(0, False, 0)
    guess = _most(limit - fixed, 0, first.temporaries / rows)
    if not compiling:
        return Largest(guess * unit, False, 0)

    def attempt(count: int) -> Compiled:
        stages = list(config.stages)
        stages[stage_index] = replace(stage, batch_size=count * unit)
        return compile_step(replace(config, stages=tuple(stages)), stage_index, mesh, options)

    if first.refusal and rows == 1:
        return Largest(0, True, 0)
    other = max(guess, 1)
    other += other == rows
    known = {rows: first, other: attempt(other)}
    (low, below), (high, above) = sorted(known.items())
    slope = max((above.temporaries - below.temporaries) / (high - low), 1)
    best = _most(limit - fixed, below.temporaries - slope * low, slope)
    while best > 0 and len(known) < 4:
        if best not in known:
            known[best] = attempt(best)
        if not known[best].refusal:
            break
        best -= 1
    fitting = [count for count, compiled in known.items() if not compiled.refusal]
    most = max(fitting, default=0)
    return Largest(most * unit, True, len(known) - 1)


def _most(room: float, fixed: float, each: float) -> int:
    """How many pieces of a size fit beside something fixed."""
    return max(int((room - fixed) // each), 0)
