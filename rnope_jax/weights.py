"""Parameters that lie in files and are read piece by piece, as much as each device holds."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import jax
import ml_dtypes
import numpy as np
from jax.sharding import Sharding

from rnope_jax.config import ModelConfig
from rnope_jax.model import ParameterInfo, Params, describe

#: Where in an array: one slice per axis.
Index = tuple[slice, ...]

#: Types in which weights are kept, by the name that a user gives.
DTYPES: dict[str, np.dtype] = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
}


class Weights(Protocol):
    """The parameters of a model under the names of `model.describe`."""

    def dtype(self, name: str, layer: int | None = None) -> np.dtype:
        """The type in which a parameter, or one layer of a stacked parameter, is kept."""
        ...

    def read(self, name: str, index: Index = ()) -> np.ndarray:
        """A piece of a parameter; the whole where no index is given. Reads no more than that piece.

        Raises:
          UserError: if the file is damaged.
        """
        ...


@dataclass(frozen=True)
class Place:
    """Where one layer's part of a parameter lies; a parameter outside the layers is its only part."""

    parameter: str
    position: int | None
    """In the parameter's stack of layers; None if it is not stacked."""
    shape: tuple[int, ...]
    """Without the stack."""


def places(config: ModelConfig) -> dict[str, Place]:
    """Every parameter layer by layer, such as "layers.3.mlp.gate", however long the pattern is."""
    found, period = {}, len(config.pattern)
    for name, info in describe(config).items():
        part, _, rest = name.partition(".")
        slot, _, inner = rest.partition(".")
        if part == "periods":
            for position in range(info.shape[0]):
                layer = position * period + int(slot)
                found[f"layers.{layer}.{inner}"] = Place(name, position, info.shape[1:])
        elif part == "remainder":
            found[f"layers.{config.num_periods * period + int(slot)}.{inner}"] = Place(name, None, info.shape)
        else:
            found[name] = Place(name, None, info.shape)
    return found


def rearranged(weights: Weights, there: ModelConfig, here: ModelConfig) -> Weights:
    """The weights of one model as those of another whose pattern has another length.

    Args:
      weights: what is read.
      there: the model whose weights they are.
      here: the model that asks; its layers have parameters of the same shapes.
    """
    return weights if len(there.pattern) == len(here.pattern) else _Rearranged(weights, there, here)


class _Rearranged:
    def __init__(self, weights: Weights, there: ModelConfig, here: ModelConfig):
        self._weights = weights
        source = places(there)
        self._parts: dict[str, list[tuple[Place, Place]]] = {}
        for name, place in places(here).items():
            self._parts.setdefault(place.parameter, []).append((place, source[name]))

    def dtype(self, name: str, layer: int | None = None) -> np.dtype:
        part = self._parts[name][layer or 0][1]
        return self._weights.dtype(part.parameter, part.position)

    def read(self, name: str, index: Index = ()) -> np.ndarray:
        parts = self._parts[name]
        if parts[0][0].position is None:
            return self._part(parts[0][1], index)
        chosen = parts[index[0]] if index else parts
        return np.stack([self._part(part, tuple(index[1:])) for _, part in chosen])

    def _part(self, place: Place, index: Index) -> np.ndarray:
        if place.position is None:
            return self._weights.read(place.parameter, index)
        return self._weights.read(place.parameter, (slice(place.position, place.position + 1), *index))[0]


def place(
    weights: Weights,
    config: ModelConfig,
    placement: Sharding | Mapping[str, Sharding],
    dtype: np.dtype = DTYPES["float32"],
) -> Params:
    """The parameters as arrays on devices; each device's part is read for itself.

    Args:
      weights: what is read.
      config: the model.
      placement: one sharding for all parameters, or one for each.
      dtype: of those that are multiplied with activations; the factors of norms are always float32.
    """

    def put(name: str, info: ParameterInfo) -> jax.Array:
        sharding = placement[name] if isinstance(placement, Mapping) else placement
        kept = dtype if multiplied(name, info) else DTYPES["float32"]
        return jax.make_array_from_callback(
            info.shape, sharding, lambda index: np.ascontiguousarray(weights.read(name, index or ()), kept)
        )

    return {name: put(name, info) for name, info in describe(config).items()}


def multiplied(name: str, info: ParameterInfo) -> bool:
    """Whether products read a parameter, which are computed in the type of the activations."""
    return info.is_matrix or name == "embedding"
