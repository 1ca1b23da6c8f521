"""The functional side of the model: parameters as a flat dict from dotted names to arrays.

A name such as `periods.3.attention.query` (slot 3 of the pattern, stacked over its periods) is the
same in optimizer state, checkpoints, messages and exports.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, NamedSharding

from rnope_jax.config import ModelConfig
from rnope_jax.model.transformer import Transformer
from rnope_jax.sharding import check_divisible, sharding

#: Parameters of a model by name.
Params = dict[str, jax.Array]


@dataclass(frozen=True)
class ParameterInfo:
    """What a parameter's declaration says of it."""

    shape: tuple[int, ...]
    dtype: jnp.dtype
    axes: tuple[str | None, ...]
    """Logical axis of each dimension."""
    decay: bool
    """Whether weight decay applies."""
    input_axes: tuple[int, ...]
    """Axes that a product sums over; empty if the parameter is not a matrix."""
    output_axes: tuple[int, ...]
    """Axes that a product leaves; axes in neither are batches of matrices."""
    learning_rate_scale: float
    """Factor on the learning rate."""

    @property
    def is_matrix(self) -> bool:
        """Whether this is a weight matrix, or a stack of them."""
        return bool(self.input_axes)


def describe(config: ModelConfig) -> dict[str, ParameterInfo]:
    """Every parameter of a model by name, without making any."""
    infos = {}
    for path, variable in nnx.to_flat_state(_abstract(config)[1]):
        meta = variable.get_metadata()
        value = variable.get_value()
        infos[_name(path)] = ParameterInfo(
            shape=value.shape,
            dtype=value.dtype,
            axes=meta["out_sharding"],
            decay=meta["decay"],
            input_axes=meta["input_axes"],
            output_axes=meta["output_axes"],
            learning_rate_scale=meta["learning_rate_scale"],
        )
    return infos


def shardings(config: ModelConfig, mesh: Mesh) -> dict[str, NamedSharding]:
    """Where each parameter lives on `mesh`.

    Raises:
      UserError: if an axis cannot be split as the rules say, naming the parameter and the axis.
    """
    infos = describe(config)
    for name, info in infos.items():
        check_divisible(mesh, name, info.shape, info.axes)
    return {name: sharding(mesh, info.axes) for name, info in infos.items()}


def init(config: ModelConfig, seed: int | jax.Array) -> Params:
    """Initial parameters; to be called under `jax.jit` with `shardings` as output shardings on a mesh."""
    # A key, because Rngs takes no traced number; the same key that it makes of an int.
    _, state = nnx.split(Transformer(config, rngs=nnx.Rngs(params=jax.random.key(seed))))
    return {_name(path): variable[...] for path, variable in nnx.to_flat_state(state)}


def bind(config: ModelConfig, params: Params) -> Transformer:
    """The model with these parameters."""
    graph, state = _abstract(config)
    flat = [(path, variable.replace(params[_name(path)])) for path, variable in nnx.to_flat_state(state)]
    return nnx.merge(graph, nnx.from_flat_state(flat))


@lru_cache(maxsize=32)
def _abstract(config: ModelConfig) -> tuple[Any, Any]:
    """Graph and state of a model whose values are shapes.

    `nnx.eval_shape` would look up the logical axes in the current mesh, which knows only its own.
    """
    graphs = []

    def make() -> Any:
        graph, state = nnx.split(Transformer(config, rngs=nnx.Rngs(0)))
        graphs.append(graph)
        return state

    state = jax.eval_shape(make)
    return graphs[0], state


def _name(path: tuple) -> str:
    return ".".join(str(part) for part in path)
