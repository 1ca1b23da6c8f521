"""From gradients to updates: optax transformations, assigned to parameters by their declarations."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from rnope_jax.config import OptimizerConfig
from rnope_jax.model import ParameterInfo, Params

#: State of an optimizer: one entry per part, each a plain dict with the fields of its optax state.
OptimizerState = dict[str, dict[str, Any]]

#: Muon's updates are orthogonal matrices; times this and the root of the larger side they have the
#: size of Adam's, so that one learning rate serves both (arXiv 2502.16982, equation 4).
_MUON_RMS = 0.2


@dataclass(frozen=True)
class Part:
    """A transformation and the parameters that it serves."""

    transform: optax.GradientTransformation
    names: tuple[str, ...]

    def select(self, tree: Mapping[str, jax.Array]) -> Params:
        """This part's entries of a flat dict."""
        return {name: tree[name] for name in self.names}


class Optimizer:
    """Preconditions gradients and applies updates with decoupled weight decay."""

    def __init__(self, config: OptimizerConfig, infos: Mapping[str, ParameterInfo]):
        self.config, self.infos = config, infos
        self.parts = _parts(config, infos)

    def init(self, params: Params) -> OptimizerState:
        """State before the first step."""
        return {name: part.transform.init(part.select(params))._asdict() for name, part in self.parts.items()}

    def update(
        self,
        gradients: Params,
        state: OptimizerState,
        params: Params,
        learning_rate: jax.Array,
        apply: jax.Array | bool = True,
    ) -> tuple[Params, OptimizerState]:
        """The next parameters and state, p - rate * (scale * update + decay * p), or the same if not `apply`."""
        new_params, new_state = {}, {}
        for name, part in self.parts.items():
            own = part.select(params)
            kind = type(jax.eval_shape(part.transform.init, own))
            updates, after = part.transform.update(part.select(gradients), kind(**state[name]), own)
            new_state[name] = jax.tree.map(partial(jnp.where, apply), after._asdict(), state[name])
            if name == "adam":
                # Parameters follow from the new moments, read where they are kept. XLA would compute the moments a
                # second time from the old ones, and to have those still it would copy them all first.
                new_state[name] = jax.lax.optimization_barrier(new_state[name])
                updates = self._adam_updates(new_state[name])
            for key, update in updates.items():
                info = self.infos[key]
                step = update * (info.learning_rate_scale * (_muon_scale(info) if name == "muon" else 1.0))
                if info.decay:
                    step += self.config.weight_decay * params[key]
                new_params[key] = jnp.where(apply, params[key] - learning_rate * step, params[key])
        return {name: new_params[name] for name in params}, new_state

    def _adam_updates(self, state: dict[str, Any]) -> Params:
        """What `optax.scale_by_adam` returns with this new state."""
        mean = optax.tree.bias_correction(state["mu"], self.config.beta1, state["count"])
        variance = optax.tree.bias_correction(state["nu"], self.config.beta2, state["count"])
        return jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + self.config.eps), mean, variance)


def clip(gradients: Params, norm: jax.Array, limit: float | None) -> Params:
    """Scales gradients of this global norm down to `limit`."""
    if limit is None:
        return gradients
    factor = jnp.minimum(1.0, limit / jnp.maximum(norm, 1e-30))
    return {name: gradient * factor for name, gradient in gradients.items()}


def _parts(config: OptimizerConfig, infos: Mapping[str, ParameterInfo]) -> dict[str, Part]:
    matrices = tuple(name for name, info in infos.items() if info.is_matrix)
    others = tuple(name for name in infos if name not in set(matrices))
    adam = optax.scale_by_adam(config.beta1, config.beta2, config.eps)
    match config.name:
        case "adamw":
            return {"adam": Part(adam, tuple(infos))}
        case "muon":
            dimensions = {
                name: contrib.MuonDimensionNumbers(infos[name].input_axes, infos[name].output_axes) for name in matrices
            }
            muon = contrib.scale_by_muon(beta=config.beta1, eps=config.eps, weight_dimension_numbers=dimensions)
            return {"muon": Part(muon, matrices), "adam": Part(adam, others)}
        case "adafactor":
            return {"adafactor": Part(optax.scale_by_factored_rms(decay_rate=0.8), tuple(infos))}


def _muon_scale(info: ParameterInfo) -> float:
    sizes = [math.prod(info.shape[axis] for axis in axes) for axes in (info.input_axes, info.output_axes)]
    return _MUON_RMS * math.sqrt(max(sizes))
