"""The model: modules (`transformer`, `block`), their caches, and the functional interface."""

from rnope_jax.model.functional import ParameterInfo, Params, bind, describe, init, shardings
from rnope_jax.model.transformer import Caches, Transformer, empty_cache
from rnope_jax.model.walk import all_finite, walk

__all__ = [
    "Caches",
    "ParameterInfo",
    "Params",
    "Transformer",
    "all_finite",
    "bind",
    "describe",
    "empty_cache",
    "init",
    "shardings",
    "walk",
]
