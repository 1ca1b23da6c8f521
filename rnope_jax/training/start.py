"""What training starts from: a checkpoint of the run, the weights of another model, or chance."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from rnope_jax import model
from rnope_jax.checkpoint import Attended, Checkpoints, from_first, load_state
from rnope_jax.config import Config, ModelConfig
from rnope_jax.data.fingerprint import check_same
from rnope_jax.errors import UserError
from rnope_jax.interop import Source, open_source
from rnope_jax.run import Run
from rnope_jax.training.state import TrainState, abstract_state, begin, init_state, state_shardings
from rnope_jax.weights import place, places, rearranged

#: Fields that give parameters their shapes.
_SIZES = ("num_layers", "vocab_size", "d_model", "d_ff", "num_heads", "num_kv_heads", "head_dim")


def check_source(config: Config) -> None:
    """Finds out whether training can begin from `init.source`, before anything is written.

    Raises:
      UserError: if it is not there, its parameters have other shapes, or its optimizer cannot be taken.
    """
    if Run(config.directory).has_checkpoint:
        return  # it goes on from there, whatever has become of its source
    if (source := _source(config, verify=False)) is not None:  # what is in the files is seen when they are read
        _check(config, source)


def restore_or_init(
    config: Config,
    mesh: Mesh,
    checkpoints: Checkpoints,
    data: Mapping[str, Any],
    report: Callable[[str], None] = print,
    attended: Attended = lambda action: action(),
) -> TrainState:
    """The state of the run's newest checkpoint; without one, that of `init.source`, or a random one.

    Args:
      config: of the run.
      mesh: where the state goes.
      checkpoints: of the run.
      data: the fingerprint of what it is trained on.
      report: told what is done.
      attended: does what the other processes wait for, as in `Checkpoints.restore`.

    Raises:
      UserError: if a checkpoint or the source cannot be read, or the checkpoint was trained on other data.
    """

    def admit(about: Mapping[str, Any]) -> None:
        accept = config.checkpoint.accept_changed_data
        check_same(about.get("data"), data, int(about["step"]), accept=accept, report=report)

    restored = checkpoints.restore(abstract_state(config, mesh).to_dict(), report, admit, attended)
    if restored is not None:
        step, state = restored
        report(f"resuming after step {step}")
        return TrainState.from_dict(state)
    source = _source(config, attended=attended)
    if source is None:
        return init_state(config, mesh)
    _check(config, source)
    what = "parameters and optimizer" if config.init.optimizer else "parameters"
    when = f" after step {source.step}" if source.step else ""
    report(f"starting from the {what} of {source.path}{when}")
    for line in _changed(source.model, config.stage_model(0)):
        report(f"  {line}")
    return _taken_over(config, mesh, source) if config.init.optimizer else _fresh(config, mesh, source)


def _source(config: Config, *, verify: bool = True, attended: Attended = lambda action: action()) -> Source | None:
    run = Run(config.directory)
    if run.imported.exists():
        return open_source(run.path, step=0)
    if config.init.source is None:
        return None
    path, convention = Path(config.init.source).expanduser(), config.init.window_convention
    if not verify or jax.process_count() == 1:
        return open_source(path, convention=convention, verify=verify)
    step = from_first("source verified", lambda: open_source(path, convention=convention).step, attended)
    return open_source(path, step or None, convention, verify=False)


def _check(config: Config, source: Source) -> None:
    """Refuses parameters of other shapes, and an optimizer state that is not there or of another kind."""
    here, there = places(config.model), places(source.model)
    for name in dict.fromkeys([*here, *there]):
        shapes = [found[name].shape if name in found else "absent" for found in (there, here)]
        if shapes[0] != shapes[1]:
            sizes = [(field, getattr(source.model, field), getattr(config.model, field)) for field in _SIZES]
            other = [f"model.{field} = {there}" for field, there, here in sizes if there != here]
            raise UserError(
                f"init.source = {str(source.path)!r}: parameter {name} is {shapes[0]} there and {shapes[1]} in this "
                f"configuration; set {', '.join(other) or 'qk_norm of every layer as it is there'}"
            )
    if not config.init.optimizer:
        return
    if source.config is None or not source.step:
        raise UserError(f"init.optimizer: {source.path} holds weights without an optimizer; leave init.optimizer off")
    if (name := source.config.optimizer.name) != config.optimizer.name:
        raise UserError(
            f"init.optimizer: {source.path} was trained with {name}; set optimizer.name = {name!r} "
            f"(now {config.optimizer.name!r}), or leave init.optimizer off"
        )
    if len(source.model.pattern) != len(config.model.pattern):
        raise UserError(
            f"init.optimizer: the pattern has {len(config.model.pattern)} layer kinds, that of {source.path} "
            f"{len(source.model.pattern)}; repeat it to the same length, or leave init.optimizer off"
        )


def _changed(there: ModelConfig, here: ModelConfig) -> Iterator[str]:
    """What else than the parameters makes the model compute something else than its source does."""
    kinds = list(zip(there.layer_kinds, here.layer_kinds, strict=True))
    changed = [layer for layer, (old, new) in enumerate(kinds) if old != new]
    if changed:
        old, new = kinds[changed[0]]
        yield (
            f"{len(changed)} of its {len(kinds)} layers were of another kind (layer {changed[0]}: {old} there, "
            f"{new} now); their parameters are taken as they are"
        )
    for name in ("logit_factor", "norm_eps"):
        if (old := getattr(there, name)) != (new := getattr(here, name)):
            yield f"its {name.replace('_', ' ')} was {old:g} and is {new:g} now"


def _fresh(config: Config, mesh: Mesh, source: Source) -> TrainState:
    weights = rearranged(source.weights, source.model, config.model)
    params = place(weights, config.model, model.shardings(config.model, mesh))
    return jax.jit(lambda params: begin(config, params), out_shardings=state_shardings(config, mesh))(params)


def _taken_over(config: Config, mesh: Mesh, source: Source) -> TrainState:
    abstract = abstract_state(config, mesh).to_dict()
    state = TrainState.from_dict(load_state(Run(source.path).checkpoints, source.step, abstract))
    zero = jax.tree.map(jnp.zeros_like, (state.step, state.health))
    return dataclasses.replace(state, step=zero[0], health=zero[1])
