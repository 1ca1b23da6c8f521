"""The layers of a model as other programs tell them apart: two types of them, and what all have in common."""

from dataclasses import dataclass

from rnope_jax.config import ModelConfig
from rnope_jax.errors import UserError
from rnope_jax.layers import LayerKind

#: Written as the window of RoPE layers that have none: Cohere2 has no RoPE layer without a window.
#: Far above any context, and below what 32-bit counters hold.
UNBOUNDED = 2**24

LOCAL, GLOBAL = "sliding_attention", "full_attention"


@dataclass(frozen=True)
class Attention:
    """What the layers of a model have in common, as far as other programs let them differ."""

    rope: tuple[bool, ...]
    """By layer."""
    theta: float | None
    """Base of the RoPE layers; None if there are none."""
    window: int | None
    """Visible keys of the RoPE layers, the query included; None if they see everything."""
    qk_norm: bool

    @property
    def layer_types(self) -> list[str]:
        """The types of Cohere2."""
        return [LOCAL if rope else GLOBAL for rope in self.rope]

    @property
    def period(self) -> int | None:
        """The p of "every p-th layer is full, the others slide"; None if the layers lie otherwise."""
        for period in range(1, len(self.rope) + 2):
            if all(rope == bool((layer + 1) % period) for layer, rope in enumerate(self.rope)):
                return period
        return None


def attention(model: ModelConfig) -> Attention:
    """The attention of a model in two kinds of layers.

    Raises:
      UserError: if no architecture of another program has such layers.
    """
    kinds = model.layer_kinds
    local = [kind for kind in kinds if kind.rope_theta is not None]
    if any(kind.log_scaling for kind in kinds):
        raise refusal("log scaling of the attention logits", "train without log_scaling, or sample with rnope generate")
    if any(kind.window is not None for kind in kinds if kind.rope_theta is None):
        raise refusal(
            "a window on a layer without RoPE", "window layers with RoPE and full layers without, as rnope_swa() has"
        )
    for field, name in (("rope_theta", "RoPE base"), ("window", "window")):
        values = list(dict.fromkeys(getattr(kind, field) for kind in local))
        if len(values) > 1:
            raise refusal(f"layers with RoPE that differ in their {name} ({values})", f"one {name} for all of them")
    norms = {kind.qk_norm for kind in kinds}
    if len(norms) > 1:
        raise refusal("QK-norm in some layers only", "QK-norm in all layers or in none")
    found = Attention(
        rope=tuple(kind.rope_theta is not None for kind in kinds),
        theta=local[0].rope_theta if local else None,
        window=local[0].window if local else None,
        qk_norm=norms == {True},
    )
    # What a kind says beyond these four would be lost.
    for kind, rope in zip(kinds, found.rope, strict=True):
        if kind != LayerKind(found.theta if rope else None, found.window if rope else None, found.qk_norm):
            raise refusal(f"layers of the kind {kind}", "layers that differ in RoPE, window and QK-norm only")
    return found


def is_cohere1(found: Attention) -> bool:
    """Whether the older class fits: RoPE without a window in every layer."""
    return all(found.rope) and found.window is None


def refusal(what: str, instead: str) -> UserError:
    """The error of a model that a program cannot compute: why, and the nearest thing that works."""
    return UserError(f"cannot export {what}: no architecture of the target computes it. What works: {instead}")
