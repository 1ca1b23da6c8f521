"""A small RNoPE-SWA model of Python source code: trains in minutes on two CPU cores.

The corpus is the standard library of the Python that runs it, so nothing is downloaded.
"""

from rnope_jax.config import (
    CheckpointConfig,
    Config,
    DataConfig,
    EvaluationConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    ScheduleConfig,
    StageConfig,
)
from rnope_jax.layers import rnope_swa


def config() -> Config:
    """Eight layers in two periods of the pattern, a window of 64 and rows of 512 tokens."""
    return Config(
        name="quickstart",
        model=ModelConfig(
            pattern=rnope_swa(window=64, theta=10_000.0),
            num_layers=8,
            vocab_size=4096,
            d_model=128,
            d_ff=384,
            num_heads=4,
            num_kv_heads=2,
            head_dim=32,
            compute_dtype="float32",
            remat="none",
        ),
        stages=(
            StageConfig(
                name="train",
                steps=600,
                sequence_length=512,
                batch_size=4,
                schedule=ScheduleConfig(
                    peak=7e-3, warmup_steps=60, kind="wsd", decay_fraction=0.4, final_fraction=0.02
                ),
            ),
        ),
        data=DataConfig(corpus=("stdlib",)),
        optimizer=OptimizerConfig(name="muon"),
        loss=LossConfig(chunk=64),  # fits the caches of a CPU
        evaluation=EvaluationConfig(every=100, rows=32, prompts=("def main(", "class ", "import ")),
        checkpoint=CheckpointConfig(every=100, keep=2),
    )
