"""What training starts from: a checkpoint of the run, the weights of another model, or chance."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from rnope_jax import model
from rnope_jax.checkpoint import Checkpoints, load_state
from rnope_jax.config import Config
from rnope_jax.errors import UserError
from rnope_jax.interop import Source, open_source
from rnope_jax.run import Run
from rnope_jax.training.state import TrainState, abstract_state, begin, init_state, state_shardings
from rnope_jax.weights import place


def check_source(config: Config) -> None:
    """Finds out whether training can begin from `init.source`, before anything is written.

    Raises:
      UserError: if it is not there, or its parameters have other shapes.
    """
    if (source := _source(config)) is not None:
        _check_shapes(config, source)


def restore_or_init(
    config: Config, mesh: Mesh, checkpoints: Checkpoints, report: Callable[[str], None] = print
) -> TrainState:
    """The state of the run's newest checkpoint; without one, that of `init.source`, or a random one.

    Raises:
      UserError: if a checkpoint or the source cannot be read.
    """
    restored = checkpoints.restore(abstract_state(config, mesh).to_dict(), report)
    if restored is not None:
        step, state = restored
        report(f"resuming after step {step}")
        return TrainState.from_dict(state)
    source = _source(config)
    if source is None:
        return init_state(config, mesh)
    _check_shapes(config, source)
    with_optimizer = " and optimizer" if config.init.optimizer else ""
    report(f"starting from the parameters{with_optimizer} of {source.path}")
    if source.model.layer_kinds != config.model.layer_kinds:
        report("  its layers were of other kinds; the parameters are taken as they are")
    return _taken_over(config, mesh, source) if config.init.optimizer else _fresh(config, mesh, source)


def _source(config: Config) -> Source | None:
    run = Run(config.directory)
    if run.imported.exists():
        return open_source(run.path, step=0)
    if config.init.source is None:
        return None
    return open_source(Path(config.init.source), convention=config.init.window_convention)


def _check_shapes(config: Config, source: Source) -> None:
    here, there = model.describe(config.model), model.describe(source.model)
    for name in dict.fromkeys([*here, *there]):
        shapes = [infos[name].shape if name in infos else "absent" for infos in (here, there)]
        if shapes[0] != shapes[1]:
            raise UserError(
                f"init.source = {str(source.path)!r}: parameter {name} is {shapes[1]} there and {shapes[0]} in this "
                "configuration; give the model the shape, and the pattern the length, that it has there"
            )
    if config.init.optimizer and not source.step:
        raise UserError(f"init.optimizer: {source.path} holds weights without an optimizer; leave init.optimizer off")


def _fresh(config: Config, mesh: Mesh, source: Source) -> TrainState:
    params = place(source.weights, config.model, model.shardings(config.model, mesh))
    return jax.jit(lambda params: begin(config, params), out_shardings=state_shardings(config, mesh))(params)


def _taken_over(config: Config, mesh: Mesh, source: Source) -> TrainState:
    abstract = abstract_state(config, mesh).to_dict()
    state = TrainState.from_dict(load_state(Run(source.path).checkpoints, source.step, abstract))
    zero = jax.tree.map(jnp.zeros_like, (state.step, state.health))
    return dataclasses.replace(state, step=zero[0], health=zero[1])
