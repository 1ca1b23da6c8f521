"""The variants of the paper (arXiv 2501.18795, section 2), at its scale and at that of a small study.

    configs/paper.py:rope_8b        configs/paper.py:rope_study
    configs/paper.py:qk_norm_8b     configs/paper.py:qk_norm_study
    configs/paper.py:nope_8b        ...
    configs/paper.py:rnope_10k_8b   (also 100k, 2m, 4m)
    configs/paper.py:rnope_swa_8b

At study scale there are also rnope_swa_small_study (a smaller window), rnope_swa_first_study (the full
layer first) and rnope_swa_log_study (log scaling on the full layers): later work disagrees with the
paper on these.

All variants at 8B are pretrained with theta 10,000; supervised fine-tuning on longer rows then moves the
theta of the RoPE layers. That is known of the RoPE variant (to 2,000,000). The thetas that name the
RNoPE variants are read here as those of their fine-tuning, which the public notes do not settle.
"""

from dataclasses import dataclass

from rnope_jax import layers
from rnope_jax.config import (
    CheckpointConfig,
    Config,
    DataConfig,
    EvaluationConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    ScheduleConfig,
    SourceConfig,
    StageConfig,
)

PRETRAINING_THETA = 10_000.0

#: Tokens of a training row of the study, and of a window.
STUDY_LENGTH, STUDY_WINDOW = 256, 32


@dataclass(frozen=True)
class Variant:
    """A row of the paper's tables."""

    name: str
    pattern: layers.Pattern
    sft_theta: float | None
    """Theta of the RoPE layers in fine-tuning; None leaves them."""


def _rope(name: str) -> Variant:
    return Variant(name, layers.rope(PRETRAINING_THETA), 2e6)


def _qk_norm(name: str) -> Variant:
    return Variant(name, layers.qk_norm(PRETRAINING_THETA), 2e6)


def _nope(name: str) -> Variant:
    return Variant(name, layers.nope(), None)


def _rnope(name: str, sft_theta: float) -> Variant:
    # The ratio of the analysis models is not known; "interleaved" is read as alternating.
    return Variant(name, layers.rnope(PRETRAINING_THETA, ratio=1), sft_theta)


def _rnope_swa(name: str, window: int) -> Variant:
    # Three window layers to one full layer, the full one last, is known of the final model
    # (section 3), as is its window of 4096. RNoPE-10k-swa keeps theta 10,000; its own window is not known.
    return Variant(name, layers.rnope_swa(window, PRETRAINING_THETA, ratio=3), PRETRAINING_THETA)


def _paper(variant: Variant) -> Config:
    """The analysis models: 8B parameters, 750B tokens, then fine-tuning."""
    return Config(
        name=variant.name,
        model=ModelConfig(
            pattern=variant.pattern,
            num_layers=32,
            vocab_size=256_000,
            d_model=4096,
            # Not given; the width of Command R7B, which makes 8.03B parameters: "8B".
            d_ff=14_336,
            num_heads=32,
            num_kv_heads=8,
            head_dim=128,
            # Not given for these models; that of Command R7B.
            logit_scale=0.25,
            # A peak of 7e-3 makes sense under muP only. The width at which it was tuned is not known;
            # 256 gives hidden matrices of 4096 an effective peak of 4.4e-4, usual for this size.
            mup_base_width=256,
        ),
        stages=(
            StageConfig(
                name="pretrain",
                steps=179_000,
                # Not given; "short" rows of fine-tuning have 8192, and the final models start at 8k.
                sequence_length=8192,
                batch_size=512,  # 4 Mi tokens; 179,000 of them are the 750B of the paper
                schedule=ScheduleConfig(peak=7e-3, warmup_steps=2000, final_fraction=0.05),  # to 3.5e-4
            ),
            StageConfig(
                name="sft",
                # Not given: 0.5B tokens, and the final rate of pretraining.
                steps=1000,
                # Known: sequences of 8,192 and of 65,536 tokens, 3 : 1, in batches of 0.5M tokens. The ratio is
                # read as one of tokens: six rows of a batch hold short sequences, two hold long ones.
                sequence_length=65_536,
                batch_size=8,
                mixture=(
                    SourceConfig(
                        name="short", weight=3, corpus=("data/sft_short",), packing="best_fit", sequence_length=8192
                    ),
                    SourceConfig(name="long", weight=1, corpus=("data/sft_long",), packing="best_fit"),
                ),
                schedule=ScheduleConfig(peak=3.5e-4, warmup_steps=50, final_fraction=0.1),
                rope_theta=variant.sft_theta,
            ),
        ),
        data=DataConfig(corpus=("data/corpus",), tokenizer="data/tokenizer/tokenizer.json"),
        # AdamW is known, its settings are not.
        optimizer=OptimizerConfig(name="adamw", beta1=0.9, beta2=0.95, weight_decay=0.1),
    )


def _study(name: str, pattern: layers.Pattern) -> Config:
    """The same comparison for two CPU cores: 0.5M parameters, 4M tokens in rows of up to 256, no fine-tuning.

    Everything here is chosen. A question takes 41 tokens, so a window of 32 does not even hold it: what is asked for
    can only be found in the full layers, of which eight layers have two in both orders. Texts that are read later may
    be 16 times as long as a row. The short rows that come first are for documents that repeat themselves: from these
    a model of this size learns to look back sooner than from others. What is repeated is nearly always longer than a
    window, so full layers have to learn it. `python -m benchmarks.study` makes the documents, trains these
    variants and compares them.
    """
    return Config(
        name=name,
        model=ModelConfig(
            pattern=pattern,
            num_layers=8,
            vocab_size=2048,
            d_model=64,
            d_ff=128,
            num_heads=2,
            num_kv_heads=2,
            head_dim=32,
            compute_dtype="float32",
            remat="none",
        ),
        stages=(
            StageConfig(
                name="repeat",
                steps=700,
                sequence_length=STUDY_LENGTH // 2,
                batch_size=8,
                packing="best_fit",
                schedule=ScheduleConfig(peak=7e-3, warmup_steps=50, kind="constant"),
            ),
            StageConfig(
                name="train",
                steps=1600,
                sequence_length=STUDY_LENGTH,
                batch_size=8,
                packing="best_fit",  # a question without its facts would teach nothing
                schedule=ScheduleConfig(peak=7e-3, kind="wsd", decay_fraction=0.5, final_fraction=0.02),
            ),
        ),
        optimizer=OptimizerConfig(name="muon"),
        loss=LossConfig(chunk=64),  # fits the caches of a CPU
        evaluation=EvaluationConfig(every=500, rows=64),
        checkpoint=CheckpointConfig(every=500, keep=1),
    )


def rope_8b() -> Config:
    """RoPE in every layer: theta 10,000, then 2,000,000."""
    return _paper(_rope("rope_8b"))


def qk_norm_8b() -> Config:
    """The RoPE variant with normalised queries and keys."""
    return _paper(_qk_norm("qk_norm_8b"))


def nope_8b() -> Config:
    """No position encoding anywhere."""
    return _paper(_nope("nope_8b"))


def rnope_10k_8b() -> Config:
    """NoPE and RoPE layers in turn, theta 10,000."""
    return _paper(_rnope("rnope_10k_8b", 1e4))


def rnope_100k_8b() -> Config:
    """NoPE and RoPE layers in turn, theta 100,000."""
    return _paper(_rnope("rnope_100k_8b", 1e5))


def rnope_2m_8b() -> Config:
    """NoPE and RoPE layers in turn, theta 2,000,000."""
    return _paper(_rnope("rnope_2m_8b", 2e6))


def rnope_4m_8b() -> Config:
    """NoPE and RoPE layers in turn, theta 4,000,000."""
    return _paper(_rnope("rnope_4m_8b", 4e6))


def rnope_swa_8b() -> Config:
    """Three RoPE layers with a window of 4096 and one full NoPE layer, theta 10,000."""
    return _paper(_rnope_swa("rnope_swa_8b", window=4096))


def rope_study() -> Config:
    """`rope_8b` at study scale."""
    return _study("rope_study", layers.rope(PRETRAINING_THETA))


def qk_norm_study() -> Config:
    """`qk_norm_8b` at study scale."""
    return _study("qk_norm_study", layers.qk_norm(PRETRAINING_THETA))


def nope_study() -> Config:
    """`nope_8b` at study scale."""
    return _study("nope_study", layers.nope())


def rnope_10k_study() -> Config:
    """`rnope_10k_8b` at study scale."""
    return _study("rnope_10k_study", layers.rnope(1e4, ratio=1))


def rnope_100k_study() -> Config:
    """As `rnope_10k_study`, trained with theta 100,000 from the start, since nothing follows pretraining."""
    return _study("rnope_100k_study", layers.rnope(1e5, ratio=1))


def rnope_2m_study() -> Config:
    """As `rnope_10k_study`, trained with theta 2,000,000."""
    return _study("rnope_2m_study", layers.rnope(2e6, ratio=1))


def rnope_4m_study() -> Config:
    """As `rnope_10k_study`, trained with theta 4,000,000."""
    return _study("rnope_4m_study", layers.rnope(4e6, ratio=1))


def rnope_swa_study() -> Config:
    """`rnope_swa_8b` at study scale: three window layers and a full one, which comes last."""
    return _study("rnope_swa_study", layers.rnope_swa(STUDY_WINDOW, PRETRAINING_THETA))


def rnope_swa_small_study() -> Config:
    """As `rnope_swa_study`, with a quarter of its window."""
    return _study("rnope_swa_small_study", layers.rnope_swa(STUDY_WINDOW // 4, PRETRAINING_THETA))


def rnope_swa_first_study() -> Config:
    """As `rnope_swa_study`, with the full layer first in each group, as SWAN-GPT has it."""
    return _study("rnope_swa_first_study", layers.rnope_swa(STUDY_WINDOW, PRETRAINING_THETA, order="global_first"))


def rnope_swa_log_study() -> Config:
    """As `rnope_swa_study`, with logits of the full layers that grow with the logarithm of the position."""
    scaling = layers.LogScaling(base=float(STUDY_LENGTH))
    local = layers.rnope_swa(STUDY_WINDOW, PRETRAINING_THETA)[:-1]
    return _study("rnope_swa_log_study", (*local, layers.LayerKind(None, None, log_scaling=scaling)))


def config() -> Config:
    """The paper's own architecture at study scale."""
    return rnope_swa_study()
