"""Command A: the 111B shape of RNoPE-SWA.

Layers, widths, heads, window and theta are those of Command A 03-2025. How it was trained is not
public in numbers: stages, batch and rates below are chosen, after `command_r7b`.

Point `data` at your own text and tokenizer: `--data.corpus DIR --data.tokenizer FILE`.
"""

from rnope_jax.config import Config, DataConfig, LossConfig, ModelConfig, OptimizerConfig, ScheduleConfig, StageConfig
from rnope_jax.layers import rnope_swa

#: Chosen: twice the batch of the 8B runs, as larger models take larger batches.
BATCH_TOKENS = 8 * 1024**2


def model() -> ModelConfig:
    """64 layers of 12,288 with 96 query and 8 key heads."""
    return ModelConfig(
        pattern=rnope_swa(window=4096, theta=50_000.0),
        num_layers=64,
        vocab_size=256_000,
        d_model=12_288,
        d_ff=36_864,
        num_heads=96,
        num_kv_heads=8,
        head_dim=128,
        logit_scale=0.25,
    )


def _stage(name: str, length: int, tokens: float, peak: float, warmup: int) -> StageConfig:
    return StageConfig(
        name=name,
        steps=round(tokens / BATCH_TOKENS),
        sequence_length=length,
        batch_size=BATCH_TOKENS // length,
        schedule=ScheduleConfig(peak=peak, warmup_steps=warmup, final_fraction=0.1),
    )


def config() -> Config:
    """8k, 32k, 128k and 256k: the model card gives 256k as the model's context."""
    return Config(
        name="command_a",
        model=model(),
        stages=(
            _stage("pretrain_8k", 8192, tokens=5e12, peak=1.5e-4, warmup=2000),
            _stage("extend_32k", 32_768, tokens=25e9, peak=1.5e-5, warmup=100),
            _stage("extend_128k", 131_072, tokens=12.5e9, peak=1.5e-5, warmup=100),
            _stage("extend_256k", 262_144, tokens=12.5e9, peak=1.5e-5, warmup=100),
        ),
        data=DataConfig(corpus=("data/corpus",), tokenizer="data/tokenizer/tokenizer.json"),
        optimizer=OptimizerConfig(name="adamw", weight_decay=0.1),
        loss=LossConfig(chunk=256),
    )
