"""Everything that a training step changes."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rnope_jax import model
from rnope_jax.config import Config
from rnope_jax.model import Params
from rnope_jax.training.optimizer import Optimizer, OptimizerState


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Health:
    """What decides whether a step is applied."""

    skipped: jax.Array
    """Steps skipped in a row, int32."""
    norm_mean: jax.Array
    """Running mean of the gradient norm of applied steps, float32; 0 before the first."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """Parameters, optimizer and counters; flat dicts of named arrays all the way."""

    step: jax.Array
    """Steps taken, skipped ones included, int32."""
    params: Params
    optimizer: OptimizerState
    health: Health

    def to_dict(self) -> dict[str, Any]:
        """The state as nested plain dicts, as checkpoints hold it."""
        health = {"skipped": self.health.skipped, "norm_mean": self.health.norm_mean}
        return {"step": self.step, "params": self.params, "optimizer": self.optimizer, "health": health}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "TrainState":
        """The inverse of `to_dict`."""
        return cls(data["step"], data["params"], data["optimizer"], Health(**data["health"]))


def make_optimizer(config: Config) -> Optimizer:
    """The optimizer of a run."""
    return Optimizer(config.optimizer, model.describe(config.model))


def init_state(config: Config, mesh: Mesh) -> TrainState:
    """The state before the first step, made in place on the devices that will hold it."""
    return jax.jit(lambda: _init(config), out_shardings=state_shardings(config, mesh))()


def state_shardings(config: Config, mesh: Mesh) -> TrainState:
    """Where each array lives: optimizer state with its parameter, counters everywhere.

    Raises:
      UserError: if a parameter cannot be split over the mesh.
    """
    params = model.shardings(config.model, mesh)
    shapes = {name: info.shape for name, info in model.describe(config.model).items()}
    everywhere = NamedSharding(mesh, PartitionSpec())

    def place(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        name = getattr(path[-1], "key", None)
        return params[name] if name in params and leaf.shape == shapes[name] else everywhere

    return jax.tree_util.tree_map_with_path(place, jax.eval_shape(lambda: _init(config)))


def abstract_state(config: Config, mesh: Mesh) -> TrainState:
    """Shapes, types and placement of the state, without making it."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        jax.eval_shape(lambda: _init(config)),
        state_shardings(config, mesh),
    )


def begin(config: Config, params: Params) -> TrainState:
    """The state before the first step, with these parameters."""
    health = Health(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.float32))
    return TrainState(jnp.zeros((), jnp.int32), params, make_optimizer(config).init(params), health)


def _init(config: Config) -> TrainState:
    return begin(config, model.init(config.model, config.seed))
