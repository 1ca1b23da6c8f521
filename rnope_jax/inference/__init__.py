"""Inference: prompts, caches, sampling."""

from rnope_jax.inference.generate import generate
from rnope_jax.inference.layout import arrange
from rnope_jax.inference.sampling import Sampling, sample
from rnope_jax.inference.stats import Stats
from rnope_jax.inference.text import TextModel, load

__all__ = ["Sampling", "Stats", "TextModel", "arrange", "generate", "load", "sample"]
