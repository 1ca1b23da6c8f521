"""Command R7B: the published 8B shape of RNoPE-SWA, with its stages of 8k, 32k and 128k tokens.

The shape is that of the c4ai-command-r7b-12-2024 `config.json`. How Cohere trained it is public in
outline only; each training value below says whether it is known.

Point `data` at your own text and tokenizer: `--data.corpus DIR --data.tokenizer FILE`.
"""

from rnope_jax.config import Config, DataConfig, LossConfig, ModelConfig, OptimizerConfig, ScheduleConfig, StageConfig
from rnope_jax.layers import rnope_swa

#: Known for the paper's analysis models: batches of 4 Mi tokens.
BATCH_TOKENS = 4 * 1024**2


def model() -> ModelConfig:
    """32 layers of 4096; every fourth is full attention without position encoding."""
    return ModelConfig(
        pattern=rnope_swa(window=4096, theta=50_000.0),
        num_layers=32,
        vocab_size=256_000,
        d_model=4096,
        d_ff=14_336,
        num_heads=32,
        num_kv_heads=8,
        head_dim=128,
        logit_scale=0.25,
    )


def stages(pretraining_tokens: float) -> tuple[StageConfig, ...]:
    """Pretraining at 8k, then extension to 32k and to 128k.

    The three lengths come from a secondary source. Their token counts are not known; one half and
    one quarter of a percent of 5T tokens are what comparable recipes spend on extension. Learning
    rates are not known either: 3e-4 falling to a tenth is usual for 8B models trained with AdamW,
    and extension goes on from the final rate.
    """
    return (
        StageConfig(
            name="pretrain_8k",
            steps=round(pretraining_tokens / BATCH_TOKENS),
            sequence_length=8192,
            batch_size=BATCH_TOKENS // 8192,
            schedule=ScheduleConfig(peak=3e-4, warmup_steps=2000, final_fraction=0.1),
        ),
        extension("extend_32k", 32_768, tokens=25e9),
        extension("extend_128k", 131_072, tokens=12.5e9),
    )


def extension(name: str, length: int, tokens: float) -> StageConfig:
    """A stage that lengthens the context, at the rate where pretraining ended."""
    schedule = ScheduleConfig(peak=3e-5, warmup_steps=100, final_fraction=0.1)
    steps, rows = round(tokens / BATCH_TOKENS), BATCH_TOKENS // length
    return StageConfig(name=name, steps=steps, sequence_length=length, batch_size=rows, schedule=schedule)


def config() -> Config:
    """The whole run: 5T tokens (known: "up to 5T"), then the two extensions."""
    return Config(
        name="command_r7b",
        model=model(),
        stages=stages(pretraining_tokens=5e12),
        data=DataConfig(corpus=("data/corpus",), tokenizer="data/tokenizer/tokenizer.json"),
        # AdamW is known, its settings are not: these are the usual ones.
        optimizer=OptimizerConfig(name="adamw", beta1=0.9, beta2=0.95, weight_decay=0.1, clip_norm=1.0),
        # With 256,000 tokens the logits of 512 positions per row are the largest arrays of a step.
        loss=LossConfig(chunk=512),
    )
