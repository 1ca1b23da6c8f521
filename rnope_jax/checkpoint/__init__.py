"""Checkpoints: written by Orbax, sealed by an integrity file, verified before they are read."""

from rnope_jax.checkpoint.reading import SavedWeights, saved_steps, saved_weights
from rnope_jax.checkpoint.store import Attended, Checkpoints, from_first, load_state, wait_for_all

__all__ = [
    "Attended",
    "Checkpoints",
    "SavedWeights",
    "from_first",
    "load_state",
    "saved_steps",
    "saved_weights",
    "wait_for_all",
]
