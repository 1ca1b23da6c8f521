"""Training, evaluation and sampling of RNoPE-SWA language models in JAX."""

__version__ = "0.1.0"
