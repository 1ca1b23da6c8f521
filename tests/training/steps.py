"""Single training steps on small random batches; compiled functions are shared between tests."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from rnope_jax.config import Config, MeshConfig, OptimizerConfig, ScheduleConfig, StageConfig
from rnope_jax.data import Batch
from rnope_jax.sharding import make_mesh
from rnope_jax.training.state import Health, TrainState, make_optimizer, state_shardings
from rnope_jax.training.step import make_evaluation_step, make_train_step, to_devices
from tests.helpers import pack, random_params, tiny_model

LENGTH = 12

#: A large eps keeps Adam from turning rounding errors of tiny gradients into whole steps.
STEADY = OptimizerConfig(eps=1e-3)


def step_config(**changes: Any) -> Config:
    """One window layer and one full layer; a constant rate."""
    stage = StageConfig(
        name="only", steps=50, sequence_length=LENGTH, batch_size=8, schedule=ScheduleConfig(peak=1e-2, kind="constant")
    )
    defaults = {"name": "steps", "model": tiny_model(num_layers=2), "stages": (stage,), "optimizer": STEADY}
    return Config(**{**defaults, **changes})


def with_stage(config: Config, **changes: Any) -> Config:
    return replace(config, stages=(replace(config.stages[0], **changes),))


@cache
def mesh_of(data: int = 1, fsdp: int = 1, tensor: int = 1) -> Mesh:
    return make_mesh(MeshConfig(data=data, fsdp=fsdp, tensor=tensor), jax.devices()[: data * fsdp * tensor])


train_step = cache(make_train_step)
evaluation_step = cache(make_evaluation_step)


def first_state(config: Config, mesh: Mesh, seed: int = 0) -> TrainState:
    """A state with random parameters; the same on every mesh."""
    params = random_params(config.model, seed, gain=0.5)
    health = Health(np.int32(0), np.float32(0))
    state = TrainState(np.int32(0), params, make_optimizer(config).init(params), health)
    # Through the host, because the step consumes its state.
    return jax.device_put(jax.tree.map(np.asarray, state), state_shardings(config, mesh))


def packed_batch(config: Config, seed: int = 0) -> Batch:
    """Random tokens in documents of uneven lengths, with very uneven weights from row to row."""
    stage, rng = config.stages[0], np.random.default_rng(seed)
    rows, length = stage.batch_size, stage.sequence_length
    documents = [(length,), (3, length - 3), (5, 2, length - 8), (length - 4,)]
    segments, positions = (np.asarray(x) for x in pack(*(documents * rows)[:rows], length=length))
    tokens = rng.integers(1, config.model.vocab_size, (rows, length + 1), dtype=np.int32)
    mask = (segments > 0) & (rng.random((rows, length)) < np.linspace(0.1, 1, rows)[:, None])
    mask[0, 0] = True
    return Batch(tokens[:, :-1], tokens[:, 1:], mask.astype(np.float32), positions, segments)


def take_steps(config: Config, mesh: Mesh, batches: Sequence[Batch], seed: int = 0) -> tuple[TrainState, list[dict]]:
    """State after these batches, and the metrics of each step, on the host."""
    state, metrics = first_state(config, mesh, seed), []
    step = train_step(config, 0, mesh)
    with jax.set_mesh(mesh):
        for batch in batches:
            state, measured = step(state, to_devices(batch, mesh))
            metrics.append(jax.device_get(measured))
    return jax.device_get(state), metrics
