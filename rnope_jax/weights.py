"""Parameters that lie in files and are read piece by piece, as much as each device holds."""

from collections.abc import Mapping
from typing import Protocol

import jax
import ml_dtypes
import numpy as np
from jax.sharding import Sharding

from rnope_jax.config import ModelConfig
from rnope_jax.model import Params, describe

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


def place(weights: Weights, config: ModelConfig, placement: Sharding | Mapping[str, Sharding]) -> Params:
    """The parameters as float32 arrays on devices; each device's part is read for itself.

    Args:
      weights: what is read.
      config: the model.
      placement: one sharding for all parameters, or one for each.
    """

    def put(name: str, shape: tuple[int, ...]) -> jax.Array:
        sharding = placement[name] if isinstance(placement, Mapping) else placement
        return jax.make_array_from_callback(
            shape, sharding, lambda index: np.ascontiguousarray(weights.read(name, index or ()), np.float32)
        )

    return {name: put(name, info.shape) for name, info in describe(config).items()}
