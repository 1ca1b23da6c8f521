"""Inference: prompts, caches, sampling."""

from rnope_jax.inference.generate import generate, prefill
from rnope_jax.inference.sampling import Sampling, sample
from rnope_jax.inference.text import TextModel, load

__all__ = ["Sampling", "TextModel", "generate", "load", "prefill", "sample"]
