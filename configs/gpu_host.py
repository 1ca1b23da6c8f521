"""One host of NVIDIA GPUs: 1B and 8B shapes on one GPU and on eight. See docs/gpu.md for what to set and to check.

The steps were compiled for H100s that were not there, to count what they hold and send (docs/gpu.md); nothing here has
been timed on a GPU. Corpus and lengths of runs are placeholders.

Point `data` at your own text and tokenizer: `--data.corpus DIR --data.tokenizer FILE`.
"""

from dataclasses import replace

import command_r7b

from rnope_jax.config import Config, DataConfig, LossConfig, ModelConfig, ScheduleConfig, StageConfig
from rnope_jax.layers import rnope_swa


def model_1b() -> ModelConfig:
    """1.1B: 16 layers of 2048, a vocabulary of 64k."""
    return ModelConfig(
        pattern=rnope_swa(window=4096, theta=50_000.0),
        num_layers=16,
        vocab_size=65_536,
        d_model=2048,
        d_ff=8192,
        num_heads=16,
        num_kv_heads=4,
        head_dim=128,
        # Attention's output and log-sum-exp are kept, so that the backward pass does not run its kernel again.
        remat="attention",
    )


def model_8b() -> ModelConfig:
    """Command R7B: 32 layers of 4096, a vocabulary of 256k."""
    return replace(command_r7b.model(), remat="attention")


def _config(name: str, model: ModelConfig, *, length: int, rows: int, accumulation: int, chunk: int) -> Config:
    steps = round(20e9 / (length * rows))
    return Config(
        name=name,
        model=model,
        stages=(
            StageConfig(
                name=f"pretrain_{length // 1024}k",
                steps=steps,
                sequence_length=length,
                batch_size=rows,
                accumulation=accumulation,
                schedule=ScheduleConfig(kind="wsd", peak=3e-4, warmup_steps=min(1000, steps // 10)),
            ),
        ),
        data=DataConfig(corpus=("data/corpus",), tokenizer="data/tokenizer/tokenizer.json"),
        # Logits exist for so many positions of a row at a time: with 256k tokens they would be the largest array.
        loss=LossConfig(chunk=chunk),
    )


def one_gpu_1b() -> Config:
    """1.1B on one GPU of 80 GB, 8k tokens: half a million tokens per step in 16 micro-batches."""
    return _config("one_gpu_1b", model_1b(), length=8192, rows=64, accumulation=16, chunk=2048)


def eight_gpus_1b() -> Config:
    """1.1B on eight GPUs, 32k tokens: two million tokens per step."""
    return _config("eight_gpus_1b", model_1b(), length=32_768, rows=64, accumulation=8, chunk=2048)


def one_gpu_8b_layers() -> Config:
    """As many layers of the 8B shape as one GPU of 80 GB trains with AdamW: to measure what a layer takes."""
    return _config(
        "one_gpu_8b_layers", replace(model_8b(), num_layers=8), length=8192, rows=2, accumulation=1, chunk=512
    )


def eight_gpus_8b() -> Config:
    """8B on eight GPUs of 80 GB, parameters and optimizer split over all of them."""
    return _config("eight_gpus_8b", model_8b(), length=8192, rows=64, accumulation=8, chunk=512)
