"""What one device must hold during a step, by what it is for, next to what it has."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import Mesh

from rnope_jax import model
from rnope_jax.config import Config
from rnope_jax.data import Batch
from rnope_jax.planning.compiling import Compiled, abstract_batch, local_bytes
from rnope_jax.sharding import CONTEXT, batch_parts
from rnope_jax.training.loss import batch_loss
from rnope_jax.training.state import abstract_state


@dataclass(frozen=True)
class Memory:
    """Bytes of one device."""

    parameters: int
    optimizer: int
    batch: int
    padding: int
    """Counters, and what the layouts of the arguments add to them."""
    activations: int
    """Kept by the forward pass for the backward pass, as the remat policy says."""
    temporaries: int
    """The rest of what the compiler sets aside: gathered weights, gradients, logits, work space."""
    code: int
    """The program itself, and what it returns beside the state."""
    limit: int
    """What programs may use."""
    host: int = 0
    """What is kept in the memory of the host; no part of the total."""

    @property
    def total(self) -> int:
        """All of it."""
        return (
            self.parameters
            + self.optimizer
            + self.batch
            + self.padding
            + self.activations
            + self.temporaries
            + self.code
        )

    @property
    def spare(self) -> int:
        """What is left; negative by as much as is missing."""
        return self.limit - self.total


def account(config: Config, stage_index: int, mesh: Mesh, compiled: Compiled, limit: int) -> Memory:
    """Divides what a compiled step needs into categories."""
    state = abstract_state(config, mesh)
    parameters, optimizer = local_bytes(state.params), local_bytes(state.optimizer)
    batch = local_bytes(abstract_batch(config, stage_index, mesh))
    # The compiler may keep less than the policy allows, when what is left out is cheap to make again.
    activations = min(kept_activations(config, stage_index, mesh), compiled.temporaries)
    return Memory(
        parameters=parameters,
        optimizer=optimizer,
        batch=batch,
        padding=compiled.arguments - parameters - optimizer - batch,
        activations=activations,
        temporaries=compiled.temporaries - activations,
        code=compiled.code + compiled.outputs,
        limit=limit,
        host=compiled.host,
    )


def kept_activations(config: Config, stage_index: int, mesh: Mesh) -> int:
    """Bytes of one device that the forward pass of a micro-batch keeps for the backward pass.

    Asks automatic differentiation, so that it holds for every remat policy. Weights and the batch,
    which are held anyway, are left out.
    """
    stage, shape = config.stages[stage_index], config.stage_model(stage_index)
    rows = stage.batch_size // stage.accumulation
    tokens = rows * stage.sequence_length
    with jax.set_mesh(mesh):
        params = abstract_state(config, mesh).params
        batch = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((rows, *leaf.shape[1:]), leaf.dtype, sharding=leaf.sharding),
            abstract_batch(config, stage_index, mesh),
        )

        def keep(params: model.Params, batch: Batch) -> Any:
            def loss(params: model.Params) -> jax.Array:
                return batch_loss(model.bind(shape, params), batch, config.loss).objective

            return jax.vjp(loss, params)[1]

        # What is offloaded lies in the host's memory.
        kept = [x for x in jax.make_jaxpr(keep)(params, batch).out_avals if x.memory_space == jax.memory.Space.Device]
    held = Counter((leaf.shape, leaf.dtype) for leaf in jax.tree.leaves((params, batch)))
    total = 0
    for leaf in kept:
        if held[leaf.shape, leaf.dtype] > 0:
            held[leaf.shape, leaf.dtype] -= 1
        elif leaf.size % tokens == 0:
            total += leaf.size * leaf.dtype.itemsize // _parts(config, mesh, leaf.shape)
        else:
            total += leaf.size * leaf.dtype.itemsize  # a constant: every device has it
    return total


def _parts(config: Config, mesh: Mesh, shape: tuple[int, ...]) -> int:
    """Over how many devices an activation is spread: rows, sequence, and heads or feed-forward width if it has them."""
    sizes = {config.model.num_heads, config.model.num_kv_heads, config.model.d_ff} - {config.model.d_model}
    tensor = mesh.shape["tensor"] if sizes & set(shape[2:]) else 1
    return batch_parts(mesh) * mesh.shape[CONTEXT] * tensor
