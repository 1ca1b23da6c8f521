"""Tiny Aya: a 3.35B RNoPE-SWA model, deeper and narrower than Command R7B.

The shape is that of the published `config.json`. Known of the training: 6T tokens and a
warm-up-stable-decay schedule. The rest follows `command_r7b` and is chosen, not known.

Point `data` at your own text and tokenizer: `--data.corpus DIR --data.tokenizer FILE`.
"""

from rnope_jax.config import Config, DataConfig, ModelConfig, ScheduleConfig, StageConfig
from rnope_jax.layers import rnope_swa

BATCH_TOKENS = 4 * 1024**2


def model() -> ModelConfig:
    """36 layers of 2048; four key heads serve sixteen query heads."""
    return ModelConfig(
        pattern=rnope_swa(window=4096, theta=50_000.0),
        num_layers=36,
        vocab_size=262_144,
        d_model=2048,
        d_ff=11_008,
        num_heads=16,
        num_kv_heads=4,
        head_dim=128,
        logit_scale=1.0,
    )


def config() -> Config:
    """6T tokens at 8k; the length of the rows is chosen as in `command_r7b`."""
    return Config(
        name="tiny_aya",
        model=model(),
        stages=(
            StageConfig(
                name="pretrain_8k",
                steps=round(6e12 / BATCH_TOKENS),
                sequence_length=8192,
                batch_size=BATCH_TOKENS // 8192,
                # The share of the decay is not known; a fifth is the usual choice.
                schedule=ScheduleConfig(kind="wsd", peak=3e-4, warmup_steps=2000, decay_fraction=0.2),
            ),
        ),
        data=DataConfig(corpus=("data/corpus",), tokenizer="data/tokenizer/tokenizer.json"),
    )
