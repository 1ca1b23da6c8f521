"""Layer kinds and patterns: what differs between the layers of a hybrid model, declared once.

Everything that depends on a layer's kind is asked of `LayerKind`: which keys a query sees, how
queries and keys are rotated, how many slots a cache needs, how many query-key pairs are computed.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from rnope_jax.errors import ConfigError
from rnope_jax.schema import Problem, Schema


def reach(window: int) -> int:
    """How many tokens before a query a window lets it see.

    The single definition of what a window counts, here and everywhere in the project: the query itself is one of
    its keys. Masks, backends, caches, counts and what devices send each other ask this function; files of other
    programs have conventions of their own (`interop/`).
    """
    return window - 1


@dataclass(frozen=True)
class LogScaling(Schema):
    """Multiplies the attention logits of a query at position n by log_base(base + n).

    The remedy of SWAN-GPT (arXiv 2504.08719) against attention that disperses far past the training
    length. Not in the RNoPE-SWA paper; off by default.
    """

    base: float
    """The a of log_a(a + n); about the training length over which attention need not sharpen."""

    def problems(self) -> Iterator[Problem]:
        if self.base <= 1:
            yield "base", "must be above 1"


@dataclass(frozen=True)
class LayerKind(Schema):
    """One kind of attention layer. The four fields are independent of each other."""

    rope_theta: float | None
    """Base of the rotary angles, or None for a layer without position encoding (NoPE)."""
    window: int | None
    """Number of keys that a query sees, itself included, or None for the whole prefix."""
    qk_norm: bool = False
    """LayerNorm on each query and key head, before the rotation."""
    log_scaling: LogScaling | None = None
    """Length-dependent logit scale, or None."""

    def problems(self) -> Iterator[Problem]:
        if self.rope_theta is not None and self.rope_theta <= 0:
            yield "rope_theta", "must be positive (10000 is usual), or None for a layer without position encoding"
        if self.window is not None and self.window < 1:
            yield "window", "must be at least 1 (the query itself counts), or None for full attention"

    def visible_keys(self, position: int) -> int:
        """How many keys the query at `position` (from 0) sees."""
        return 1 + (position if self.window is None else min(position, reach(self.window)))

    def attention_pairs(self, length: int) -> int:
        """Query-key pairs in one causal document of `length` tokens."""
        ramp = self.visible_keys(length - 1)
        return ramp * (ramp + 1) // 2 + (length - ramp) * ramp

    def cache_length(self, context: int) -> int:
        """Slots that a key-value cache needs for contexts up to `context` tokens."""
        return self.visible_keys(context - 1)

    def __str__(self) -> str:
        parts = ["full" if self.window is None else f"window {self.window}"]
        parts.append("NoPE" if self.rope_theta is None else f"RoPE {self.rope_theta:g}")
        if self.qk_norm:
            parts.append("QK-norm")
        if self.log_scaling:
            parts.append(f"log scaling {self.log_scaling.base:g}")
        return " + ".join(parts)


#: One period of layer kinds; cycled over the layers of a model.
Pattern = tuple[LayerKind, ...]


def kinds(pattern: Pattern, num_layers: int) -> Pattern:
    """The kind of each of `num_layers` layers."""
    return tuple(pattern[i % len(pattern)] for i in range(num_layers))


def with_theta(pattern: Pattern, theta: float | None) -> Pattern:
    """The pattern with `theta` in its RoPE layers; NoPE layers stay as they are. None changes nothing."""
    if theta is None:
        return pattern
    return tuple(kind if kind.rope_theta is None else replace(kind, rope_theta=theta) for kind in pattern)


def rope(theta: float = 10_000.0) -> Pattern:
    """Full attention with RoPE in every layer: the paper's RoPE variant."""
    return (LayerKind(theta, None),)


def qk_norm(theta: float = 10_000.0) -> Pattern:
    """RoPE with normalised queries and keys: the paper's QK-Norm variant."""
    return (LayerKind(theta, None, qk_norm=True),)


def nope() -> Pattern:
    """Full attention without position encoding in every layer: the paper's NoPE variant."""
    return (LayerKind(None, None),)


def rnope(theta: float = 10_000.0, ratio: int = 1) -> Pattern:
    """`ratio` full RoPE layers, then one full NoPE layer: the paper's RNoPE variants.

    The paper interleaves the two kinds; no note of it gives the ratio of these analysis models, so
    the default alternates.
    """
    return (LayerKind(theta, None),) * _checked(ratio) + nope()


def rnope_swa(
    window: int = 4096,
    theta: float = 50_000.0,
    ratio: int = 3,
    order: Literal["local_first", "global_first"] = "local_first",
) -> Pattern:
    """`ratio` sliding-window RoPE layers and one full NoPE layer: RNoPE-SWA (paper section 3).

    The defaults are those of the shipped Command R7B; there the full layer closes each group.
    `global_first` is the order of SWAN-GPT.
    """
    local = (LayerKind(theta, window),) * _checked(ratio)
    match order:
        case "local_first":
            return local + nope()
        case "global_first":
            return nope() + local
    raise ConfigError(f"rnope_swa.order = {order!r}: must be 'local_first' or 'global_first'")


def _checked(ratio: int) -> int:
    if ratio < 1:
        raise ConfigError(f"ratio = {ratio!r}: a pattern needs at least one RoPE layer for each NoPE layer")
    return ratio
