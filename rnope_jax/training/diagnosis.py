"""What is wrong with a step that is not finite: the first bad tensor on the way through the model."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from rnope_jax import model
from rnope_jax.config import Config, ModelConfig
from rnope_jax.data import Batch
from rnope_jax.model import Params
from rnope_jax.training.loss import cross_entropy
from rnope_jax.training.step import local_rows, to_devices
from rnope_jax.weights import places

#: Rows that are named.
_NAMED = 5


def bad_gradients(config: ModelConfig, finite: Mapping[str, Any]) -> list[str]:
    """Parameters whose gradient is not finite, in the order of the forward pass, such as "layers.3.mlp.gate".

    Args:
      config: the model.
      finite: for each parameter whether its gradient is finite, or whether that of each layer in it is.
    """
    return [name for name, fine in _by_layer(config, finite).items() if not fine]


def first_bad(config: Config, index: int, mesh: Mesh, params: Params, batch: Batch, gradients: list[str]) -> str:
    """The first tensor that is not finite, as a clause: of batch, parameters and activations in the order of the
    forward pass, then of the gradients.

    All processes call it together.

    Args:
      config: of the run.
      index: of the stage.
      mesh: where the parameters are.
      params: as the step met them.
      batch: all rows of the batch.
      gradients: from `bad_gradients`.
    """
    shape = config.stage_model(index)
    if (wrong := _wrong_batch(batch, shape.vocab_size)) is not None:
        return wrong
    finite = {name: model.all_finite(name, value) for name, value in params.items()}
    bad = [name for name, fine in _by_layer(shape, jax.tree.map(_on_host, finite)).items() if not fine]
    mine = list(local_rows(mesh, *batch.tokens.shape))
    placed = to_devices(Batch(*(array[mine] for array in batch)), mesh, len(batch.tokens))
    with jax.set_mesh(mesh):
        bound = model.bind(shape, params)
        for name, value in model.walk(bound, placed.tokens, placed.positions, placed.segment_ids):
            # A parameter comes before what is computed with it.
            used = [one for one in bad if one == name or one.startswith(f"{name}.")]
            if used:
                return f"The first tensor that is not finite is the parameter {used[0]}"
            rows = np.flatnonzero(~_on_host(jnp.isfinite(value).all(axis=(1, 2))))
            if len(rows):
                return f"The first tensor that is not finite is the activation {name}, in {_rows(rows)}"
        loss = partial(cross_entropy, logit_factor=shape.logit_factor, chunk=config.loss.chunk)
        # Compiled: it is divided over the devices in a way that cannot be run piece by piece.
        sums = jax.jit(loss)(value, bound.embedding[...], placed.targets, placed.loss_mask)
    if not np.isfinite(float(sums.nll)):
        return "The first tensor that is not finite is the activation logits (or their loss)"
    if gradients:
        return f"All activations are finite; the first gradient on the way back that is not is that of {gradients[-1]}"
    return "With the parameters at hand all activations are finite"


def _wrong_batch(batch: Batch, vocab_size: int) -> str | None:
    """What is wrong with the rows themselves."""
    for name, ids in (("tokens", batch.tokens), ("targets", batch.targets)):
        if len(places := np.argwhere((ids < 0) | (ids >= vocab_size))):
            row, place = places[0]
            return (
                f"The {name} of its batch are wrong: {ids[row, place]} in row {row}, place {place}, is none of the "
                f"{vocab_size} tokens of the model"
            )
    if len(rows := np.flatnonzero(~np.isfinite(batch.loss_mask).all(axis=1))):
        return f"The loss mask of its batch is not finite, in {_rows(rows)}"
    return None


def _by_layer(config: ModelConfig, finite: Mapping[str, Any]) -> dict[str, bool]:
    """One entry for each layer of each parameter, in the order in which the forward pass uses them."""
    found = {
        name: bool(np.asarray(finite[place.parameter]).reshape(-1)[place.position or 0])
        for name, place in places(config).items()
    }

    def order(name: str) -> tuple[int, int]:
        parts = name.split(".")
        if parts[0] != "layers":
            return (0 if name == "embedding" else config.num_layers + 1, 0)
        return (int(parts[1]) + 1, ("norm", "attention", "mlp").index(parts[2]))

    return dict(sorted(found.items(), key=lambda item: order(item[0])))


def _on_host(array: jax.Array) -> np.ndarray:
    """All of an array, in every process."""
    if jax.process_count() == 1:
        return np.asarray(array)
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))


def _rows(rows: np.ndarray) -> str:
    more = f" and {len(rows) - _NAMED} more" if len(rows) > _NAMED else ""
    return f"row{'s' * (len(rows) > 1)} {', '.join(map(str, rows[:_NAMED]))}{more} of the batch"
