"""The real training step of a stage, compiled for devices that need not exist; no array is ever made."""

import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from rnope_jax.config import Config
from rnope_jax.data import Batch
from rnope_jax.planning.output import captured
from rnope_jax.sharding import check_batch
from rnope_jax.training.state import TrainState, abstract_state
from rnope_jax.training.step import batch_sharding, make_train_step

#: What the compiler says of programs that do not fit: what they need and what there is, in its unit.
_NEEDED = re.compile(r"temporaries \(([\d.]+)([KMGT]?)\) exceeds available HBM \(([\d.]+)([KMGT]?)\)")
_USED = re.compile(r"Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm")


@dataclass(frozen=True)
class Compiled:
    """A step for one device of the mesh; sizes in bytes."""

    text: str
    """The optimised HLO; empty if the program does not fit."""
    arguments: int
    """State and batch, with the padding of their layouts."""
    outputs: int
    """What the step returns beyond the state, which takes the place of the old one."""
    temporaries: int
    """The most that the program holds besides, at any time."""
    code: int
    """The program itself."""
    seconds: float
    """That tracing and compiling took."""
    refusal: str = ""
    """What the compiler said if the program does not fit."""
    warnings: tuple[str, ...] = ()
    """Arrays that it could split anew only by way of a full copy on every device."""
    host: int = 0
    """What the program holds in the memory of the host, at most at any time."""

    @property
    def total(self) -> int:
        """All that the step needs."""
        return self.arguments + self.outputs + self.temporaries + self.code


def abstract_batch(config: Config, stage_index: int, mesh: Mesh) -> Batch:
    """Shapes, types and placement of a stage's batch."""
    stage = config.stages[stage_index]

    def array(dtype: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((stage.batch_size, stage.sequence_length), dtype, sharding=batch_sharding(mesh))

    return Batch(
        tokens=array(jnp.int32),
        targets=array(jnp.int32),
        loss_mask=array(jnp.float32),
        positions=array(jnp.int32),
        segment_ids=array(jnp.int32),
    )


def local_bytes(tree: Any) -> int:
    """Bytes that one device holds of abstract arrays with shardings."""
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)


def compile_step(config: Config, stage_index: int, mesh: Mesh, options: Mapping[str, str | bool]) -> Compiled:
    """Compiles the step of a stage; a program that is too large gives a result that says so.

    Raises:
      UserError: if the stage or the model cannot be split over the mesh.
    """
    check_batch(config, stage_index, mesh)
    began = time.perf_counter()
    with jax.set_mesh(mesh):
        state = abstract_state(config, mesh)
        batch = abstract_batch(config, stage_index, mesh)
        lowered = make_train_step(config, stage_index, mesh).lower(state, batch)
        try:
            with captured() as lines:
                program = lowered.compile(compiler_options=dict(options) or None)
        except jax.errors.JaxRuntimeError as error:
            return _refused(str(error), state, batch, time.perf_counter() - began)
    memory = program.memory_analysis()
    return Compiled(
        text=program.as_text(),
        arguments=memory.argument_size_in_bytes,
        outputs=memory.output_size_in_bytes - memory.alias_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        code=memory.generated_code_size_in_bytes,
        seconds=time.perf_counter() - began,
        warnings=tuple(line.strip() for line in lines if "nvoluntary full rematerialization" in line),
        host=memory.host_temp_size_in_bytes,
    )


def _refused(message: str, state: TrainState, batch: Batch, seconds: float) -> Compiled:
    """The result for a program that the compiler found too large.

    Raises:
      JaxRuntimeError: if it found something else.
    """
    if "RESOURCE_EXHAUSTED" not in message or "memory" not in message.lower():
        raise jax.errors.JaxRuntimeError(message)
    arguments = local_bytes((state, batch))
    if found := _NEEDED.search(message):
        needed = _bytes(found[1], found[2])
    elif found := _USED.search(message):
        needed = max(_bytes(found[1], found[2]) - arguments, 0)
    else:
        needed = 0
    return Compiled("", arguments, 0, needed, 0, seconds, refusal=message.splitlines()[0])


def _bytes(number: str, unit: str) -> int:
    return int(float(number) * 1024 ** "BKMGT".index(unit or "B"))
