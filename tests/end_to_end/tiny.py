"""A run that takes seconds; tests give corpus and run directory on the command line."""

from dataclasses import replace

from rnope_jax.config import (
    CheckpointConfig,
    Config,
    EvaluationConfig,
    LoggingConfig,
    ModelConfig,
    ScheduleConfig,
    StageConfig,
)
from rnope_jax.layers import rnope_swa


def config() -> Config:
    """One window layer and one full layer, two stages, a checkpoint every step."""
    first = StageConfig(
        name="first", steps=14, sequence_length=32, batch_size=8, schedule=ScheduleConfig(peak=1e-2, warmup_steps=2)
    )
    return Config(
        name="tiny",
        model=ModelConfig(
            pattern=rnope_swa(window=5, theta=100.0, ratio=1),
            num_layers=2,
            vocab_size=300,
            d_model=16,
            d_ff=24,
            num_heads=4,
            num_kv_heads=2,
            head_dim=8,
            compute_dtype="float32",
            remat="none",
        ),
        stages=(first, replace(first, name="second", steps=6, rope_theta=1000.0)),
        evaluation=EvaluationConfig(every=10, rows=8, prompts=("river", "the stone"), sample_tokens=8),
        checkpoint=CheckpointConfig(every=1, keep=3),
        logging=LoggingConfig(every=1),
    )


def number() -> int:
    """Not a configuration."""
    return 3
