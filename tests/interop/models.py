"""Runs and directories of random models, for tests of what goes in and out."""

import functools
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from rnope_jax.checkpoint import Checkpoints
from rnope_jax.config import CheckpointConfig, Config, ModelConfig
from rnope_jax.data import Tokenizer, tokenizer
from rnope_jax.model import Params
from rnope_jax.run import Run
from tests.helpers import random_params, tiny_config, tiny_model

#: Size of the tokenizer of `make_run`; a model may have more tokens, but not fewer.
VOCAB = 270


def model(**changes) -> ModelConfig:
    """A tiny model that every program can read: its heads make up its width."""
    return tiny_model(**{"vocab_size": VOCAB, "d_model": 32, "d_ff": 40, "logit_scale": 0.25, **changes})


@functools.cache
def small_tokenizer() -> Tokenizer:
    """A byte-level BPE with a few merges."""
    return tokenizer.train(["the river and the stone\n", "def main(there):\n    return 42\n"] * 20, VOCAB)


def make_run(path: Path, config: ModelConfig, *, params: Params | None = None, step: int = 3, **changes) -> Run:
    """A run directory with one checkpoint of random parameters, and a tokenizer."""
    whole: Config = tiny_config(model=config, run_dir=str(path), **changes)
    run = Run(path)
    path.mkdir(parents=True)
    run.record(whole)
    small_tokenizer().save(run.tokenizer)
    params = random_params(config) if params is None else params
    state = {"params": params, "step": jnp.int32(step), "optimizer": {}, "health": {}}
    checkpoints = Checkpoints(run.checkpoints, CheckpointConfig())
    checkpoints.save(step, state, {"step": step})
    checkpoints.close()
    return run


def random_ids(config: ModelConfig, length: int, batch: int = 1, seed: int = 0) -> np.ndarray:
    """Token ids [batch, length]; past the tokenizer's there may be more."""
    return np.random.default_rng(seed).integers(3, config.vocab_size, (batch, length))
