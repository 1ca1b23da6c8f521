"""What is trained: the shape and arithmetic of a model."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from rnope_jax.layers import Pattern, kinds, with_theta
from rnope_jax.schema import Problem, Schema


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Schema):
    """Shape and arithmetic of a decoder with Cohere's parallel blocks."""

    pattern: Pattern
    """Layer kinds of one period, cycled over the layers."""
    num_layers: int
    """Number of layers; need not be a multiple of the pattern."""
    vocab_size: int
    """Rows of the embedding, which is also the output projection."""
    d_model: int
    """Width of the residual stream."""
    d_ff: int
    """Width of the SwiGLU feed-forward layer."""
    num_heads: int
    """Query heads."""
    num_kv_heads: int
    """Key and value heads; each serves num_heads / num_kv_heads query heads."""
    head_dim: int
    """Width of a head."""
    norm_eps: float = 1e-5
    """Added to the variance in every LayerNorm."""
    logit_scale: float = 1.0
    """Factor on the output logits (Command R7B: 0.25)."""
    init_std: float = 0.02
    """Standard deviation of initial weights; output projections are divided by sqrt(2 x layers)."""
    mup_base_width: int | None = None
    """muP: the d_model at which learning rate and initialisation were tuned. None: standard parametrisation."""
    compute_dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Type of activations and of weights in matrix products. Master weights, norms, softmax and loss are float32."""
    attention: Literal["auto", "splash", "pallas_gpu", "cudnn", "blockwise", "reference"] = "auto"
    """Attention backend: splash (TPU), pallas_gpu (NVIDIA GPU), cudnn (NVIDIA GPU, rows that are not packed),
    blockwise (any platform), reference (for tests); auto: the best that the device has."""
    remat: Literal["full", "attention", "none", "offload", "sequential"] = "full"
    """What the backward pass recomputes: whole layers (full), all of them but attention, whose output and log-sum-exp
    are kept (attention), or nothing (none). Each keeps more memory and computes less than the one before. "offload"
    recomputes what "attention" does, and has all that the scanned layers keep, their inputs too, in the host's
    memory; needs two periods of the pattern. "sequential" is "full", and the backward pass ends with one layer before
    it takes up the next: the least memory on a CPU; elsewhere it saves little."""
    mlp_chunk: int | None = None
    """Positions per row, of the part that a device holds, for which the activations of a feed-forward layer exist at
    a time; the backward pass computes them again. None: all positions, as `remat` says."""

    def path(self) -> str:
        return "model"

    def problems(self) -> Iterator[Problem]:
        if not self.pattern:
            yield "pattern", "needs at least one layer kind, for example rnope_swa(window=4096)"
        for name in ("num_layers", "vocab_size", "d_model", "d_ff", "num_heads", "num_kv_heads", "head_dim"):
            if getattr(self, name) < 1:
                yield name, "must be at least 1"
        for name in ("norm_eps", "logit_scale", "init_std"):
            if getattr(self, name) <= 0:
                yield name, "must be positive"
        if self.num_heads % self.num_kv_heads:
            divisors = [k for k in range(1, self.num_heads + 1) if self.num_heads % k == 0]
            yield "num_kv_heads", f"must divide num_heads = {self.num_heads}: one of {divisors}"
        if self.head_dim % 2 and any(kind.rope_theta is not None for kind in self.pattern):
            yield "head_dim", "must be even, because RoPE rotates pairs of channels"
        if self.remat == "offload" and self.num_periods < 2:
            yield (
                "remat",
                f"needs a scan over layers, so num_layers of at least twice the pattern: {2 * len(self.pattern)}; "
                'use "attention"',
            )
        if self.mlp_chunk is not None and self.mlp_chunk < 1:
            yield "mlp_chunk", "must be at least 1, or None for all positions at a time"
        if self.mup_base_width is not None and self.mup_base_width < 1:
            yield "mup_base_width", "must be at least 1, or None for the standard parametrisation"

    @property
    def layer_kinds(self) -> Pattern:
        """The kind of every layer, in order."""
        return kinds(self.pattern, self.num_layers)

    @property
    def num_periods(self) -> int:
        """Whole periods of the pattern, which are scanned; the remaining layers follow unrolled."""
        return self.num_layers // len(self.pattern)

    @property
    def remainder(self) -> Pattern:
        """Kinds of the layers after the last whole period."""
        return self.pattern[: self.num_layers % len(self.pattern)]

    @property
    def unrolled(self) -> "ModelConfig":
        """The same model to be run, not trained, with no layer in a scan: its pattern is longer than the model."""
        pattern = self.layer_kinds + self.layer_kinds[:1]
        return replace(self, pattern=pattern, remat="none") if self.num_periods else self

    @property
    def width_ratio(self) -> float:
        """The m of muP; 1 in the standard parametrisation."""
        return self.d_model / self.mup_base_width if self.mup_base_width else 1.0

    @property
    def logit_factor(self) -> float:
        """Factor on the product of hidden states and embedding: `logit_scale`, and 1 / m under muP."""
        return self.logit_scale / self.width_ratio

    def with_theta(self, theta: float | None) -> "ModelConfig":
        """This model with another RoPE base in its RoPE layers; None leaves it."""
        return replace(self, pattern=with_theta(self.pattern, theta))
