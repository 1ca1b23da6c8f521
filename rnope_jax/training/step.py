"""One training step, and one evaluation step, as compiled functions of a stage."""

from functools import cache
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from rnope_jax import model
from rnope_jax.attention.context import zigzag
from rnope_jax.config import Config
from rnope_jax.data import Batch
from rnope_jax.model import Params, all_finite
from rnope_jax.sharding import CONTEXT, constrain, sharding
from rnope_jax.training.loss import LossSums, batch_loss
from rnope_jax.training.optimizer import clip
from rnope_jax.training.schedule import learning_rate
from rnope_jax.training.state import Health, TrainState, make_optimizer, state_shardings

#: Metrics of a step, on the devices.
StepMetrics = dict[str, Any]

#: Decay of the running mean of the gradient norm.
_NORM_DECAY = 0.98


class TrainStep(Protocol):
    """A jitted step: takes a state, which it consumes, and a global batch; gives the next state."""

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, StepMetrics]: ...

    def lower(self, state: TrainState, batch: Batch) -> Any:
        """For compilation ahead of time."""


class EvaluationStep(Protocol):
    """A jitted evaluation: sums of the loss over one global batch."""

    def __call__(self, params: Params, batch: Batch) -> LossSums: ...

    def lower(self, params: Params, batch: Batch) -> Any:
        """For compilation ahead of time."""


def make_train_step(config: Config, stage_index: int, mesh: Mesh) -> TrainStep:
    """The training step of one stage.

    The gradient is that of the mean loss over the tokens of the whole batch, however it is divided
    into micro-batches and over devices. A step whose loss or gradient is not finite, or whose norm
    is a spike, changes nothing but the counters.
    """
    stage = config.stages[stage_index]
    shape = config.stage_model(stage_index)
    first = config.first_step(stage_index)
    optimizer, schedule = make_optimizer(config), learning_rate(stage)
    settings = config.optimizer

    def objective(params: Params, batch: Batch) -> tuple[jax.Array, LossSums]:
        sums = batch_loss(model.bind(shape, params), batch, config.loss)
        return sums.objective, sums

    def gradients(params: Params, batch: Batch) -> tuple[Params, LossSums]:
        """Gradient of the summed objective, and the sums."""
        if stage.accumulation == 1:
            return jax.grad(objective, has_aux=True)(params, batch)

        def accumulate(total: Any, part: Batch) -> tuple[Any, None]:
            part = jax.tree.map(lambda x: constrain(x, "batch", "sequence"), part)
            return jax.tree.map(jnp.add, total, jax.grad(objective, has_aux=True)(params, part)), None

        # Micro-batch i takes every accumulation-th row, so that each is spread over all devices.
        parts = jax.tree.map(lambda x: x.reshape(-1, stage.accumulation, *x.shape[1:]).swapaxes(0, 1), batch)
        zero = jax.tree.map(jnp.zeros_like, (params, LossSums(*[jnp.zeros((), jnp.float32)] * len(LossSums._fields))))
        return jax.lax.scan(accumulate, zero, parts)[0]

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, StepMetrics]:
        summed, sums = gradients(state.params, batch)
        tokens = jnp.maximum(sums.weight, 1.0)
        mean = {name: gradient / tokens for name, gradient in summed.items()}
        norm = optax.global_norm(mean)
        loss, rate = sums.nll / tokens, schedule(state.step - first + 1)

        fine = jnp.isfinite(norm) & jnp.isfinite(loss)
        if settings.skip_spikes is not None:
            known = state.health.norm_mean > 0
            fine &= ~known | (norm <= settings.skip_spikes * state.health.norm_mean)
        clipped = clip(mean, norm, settings.clip_norm)
        params, optimizer_state = optimizer.update(clipped, state.optimizer, state.params, rate, fine)
        mixed = _NORM_DECAY * state.health.norm_mean + (1 - _NORM_DECAY) * norm
        norm_mean = jnp.where(state.health.norm_mean > 0, mixed, norm)
        health = Health(
            skipped=jnp.where(fine, 0, state.health.skipped + 1),
            norm_mean=jnp.where(fine, norm_mean, state.health.norm_mean),
        )
        metrics = {
            "loss": loss,
            "z": sums.z / tokens,
            "gradient_norm": norm,
            "learning_rate": rate,
            "tokens": sums.weight,
            "skipped": health.skipped,
            # Tells which tensors are to blame when a step is not finite, layer by layer.
            "gradient_finite": {name: all_finite(name, gradient) for name, gradient in mean.items()},
        }
        return TrainState(state.step + 1, params, optimizer_state, health), metrics

    placed = state_shardings(config, mesh)
    rows, everywhere = batch_sharding(mesh), sharding(mesh, ())
    return jax.jit(step, donate_argnums=0, in_shardings=(placed, rows), out_shardings=(placed, everywhere))


def make_evaluation_step(config: Config, stage_index: int, mesh: Mesh) -> EvaluationStep:
    """The evaluation of one stage."""
    shape = config.stage_model(stage_index)

    def step(params: Params, batch: Batch) -> LossSums:
        return batch_loss(model.bind(shape, params), batch, config.loss)

    return jax.jit(
        step,
        in_shardings=(state_shardings(config, mesh).params, batch_sharding(mesh)),
        out_shardings=sharding(mesh, ()),
    )


def batch_sharding(mesh: Mesh) -> jax.sharding.NamedSharding:
    """Where the tokens of a batch live."""
    return sharding(mesh, ("batch", "sequence"))


@cache
def local_rows(mesh: Mesh, batch_size: int, length: int) -> tuple[int, ...]:
    """The rows of a global batch that this process's devices need, whole or in part."""
    places = batch_sharding(mesh).addressable_devices_indices_map((batch_size, length)).values()
    slices = [place[0] for place in places if place is not None]
    return tuple(sorted({row for rows in slices for row in range(*rows.indices(batch_size))}))


def to_devices(batch: Batch, mesh: Mesh, batch_size: int | None = None) -> Batch:
    """A global batch, of `batch_size` rows, from those rows of it that this process has (`local_rows`)."""
    parts = mesh.shape[CONTEXT]
    length = batch.tokens.shape[1]
    batch_size = batch_size or len(batch.tokens)
    order = zigzag(length, parts) if parts > 1 else np.arange(length)
    held = {row: number for number, row in enumerate(local_rows(mesh, batch_size, length))}

    def place(x: np.ndarray) -> jax.Array:
        def part(index: Any) -> np.ndarray:
            rows = [held[row] for row in range(*index[0].indices(batch_size))]
            return x[rows][:, order[index[1]]]

        return jax.make_array_from_callback((batch_size, length), batch_sharding(mesh), part)

    return jax.tree.map(place, batch)
