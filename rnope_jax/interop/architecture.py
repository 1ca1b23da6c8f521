"""Which architecture of another program computes what a model computes, and the config.json that says so.

Two classes of transformers have the Cohere block:

- `CohereForCausalLM`: full attention with RoPE in every layer, with or without QK-norm;
- `Cohere2ForCausalLM`: layers of two types, "sliding_attention" with a window and RoPE, and
  "full_attention" without position encoding, in any order.

What neither can carry is refused with the reason; nothing is approximated.
"""

from dataclasses import dataclass
from typing import Any, Literal

from rnope_jax.config import ModelConfig
from rnope_jax.errors import UserError

#: The program for which an export is written.
Target = Literal["transformers", "vllm", "llama.cpp"]

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
        raise _refusal(
            "log scaling of the attention logits", "train without log_scaling, or sample with rnope generate"
        )
    if any(kind.window is not None for kind in kinds if kind.rope_theta is None):
        raise _refusal(
            "a window on a layer without RoPE", "window layers with RoPE and full layers without, as rnope_swa() has"
        )
    for field, name in (("rope_theta", "RoPE base"), ("window", "window")):
        values = list(dict.fromkeys(getattr(kind, field) for kind in local))
        if len(values) > 1:
            raise _refusal(f"layers with RoPE that differ in their {name} ({values})", f"one {name} for all of them")
    norms = {kind.qk_norm for kind in kinds}
    if len(norms) > 1:
        raise _refusal("QK-norm in some layers only", "QK-norm in all layers or in none")
    return Attention(
        rope=tuple(kind.rope_theta is not None for kind in kinds),
        theta=local[0].rope_theta if local else None,
        window=local[0].window if local else None,
        qk_norm=norms == {True},
    )


def architecture(model: ModelConfig, target: Target) -> dict[str, Any]:
    """The keys of a config.json that describe the model, for a program that reads Hugging Face files.

    Every generation of transformers since 4.48 reads it: older ones the keys of their time
    (`rope_theta`, `sliding_window_pattern`), newer ones `rope_parameters` and `layer_types`.

    Raises:
      UserError: if the program has no such architecture, with the nearest thing that works.
    """
    found = attention(model)
    theta = found.theta or 10_000.0
    shape = {
        "vocab_size": model.vocab_size,
        "hidden_size": model.d_model,
        "intermediate_size": model.d_ff,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_heads,
        "num_key_value_heads": model.num_kv_heads,
        "head_dim": model.head_dim,
        "layer_norm_eps": model.norm_eps,
        "logit_scale": model.logit_factor,
        "rope_theta": theta,
        "rope_scaling": None,
        "rope_parameters": {"rope_type": "default", "rope_theta": theta},
        "rotary_pct": 1.0,
        "position_embedding_type": "rope_gptj",
        "hidden_act": "silu",
        "use_qk_norm": found.qk_norm,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "initializer_range": model.init_std,
        "tie_word_embeddings": True,
        "use_cache": True,
        "use_embedding_sharing": True,
        "use_gated_activation": True,
        "use_parallel_block": True,
        "use_parallel_embedding": False,
    }
    check_target(model, found, target)
    if is_cohere1(found):
        return {"architectures": ["CohereForCausalLM"], "model_type": "cohere", **shape}
    window = UNBOUNDED if found.window is None else found.window
    if target == "vllm":
        window -= 1  # vLLM from 0.29 on lets a query of these models see sliding_window + 1 keys
    hybrid: dict[str, Any] = {
        "sliding_window": window,
        "layer_types": found.layer_types,
        # All that transformers before 4.53 knows: without it they would take 4, with null they raise.
        "sliding_window_pattern": found.period,
    }
    if found.period is not None:
        hybrid["order_of_interleaved_layers"] = "local_attn_first"  # exllamav3 asserts it
    return {"architectures": ["Cohere2ForCausalLM"], "model_type": "cohere2", **shape, **hybrid}


def is_cohere1(found: Attention) -> bool:
    """Whether the older class fits: RoPE without a window in every layer."""
    return all(found.rope) and found.window is None


def check_target(model: ModelConfig, found: Attention, target: Target) -> None:
    """Refuses what the architecture can say, but the program does not do.

    Raises:
      UserError: with the reason and the nearest thing that works.
    """
    if found.qk_norm and not is_cohere1(found) and target != "vllm":
        raise _refusal(
            "QK-norm together with windows or NoPE layers",
            "--for vllm, whose Cohere2 applies it; transformers has it with RoPE in every layer only (qk_norm())",
        )
    match target:
        case "vllm" if found.window == 1:
            raise _refusal("a window of one key in vLLM", "--for transformers")
        case "llama.cpp":
            _check_llama_cpp(model, found)
            if not is_cohere1(found) and found.period != 4:
                raise _refusal(
                    "a pattern other than three window layers and one full layer in llama.cpp's own converter",
                    "--gguf, which writes the pattern into the file",
                )


def check_gguf(model: ModelConfig, found: Attention) -> None:
    """Refuses what llama.cpp cannot compute from any file.

    Raises:
      UserError: with the reason and the nearest thing that works.
    """
    if found.qk_norm and not is_cohere1(found):
        raise _refusal("QK-norm together with windows or NoPE layers", "--for vllm")
    _check_llama_cpp(model, found)


def _check_llama_cpp(model: ModelConfig, found: Attention) -> None:
    if model.num_heads * model.head_dim != model.d_model:
        raise _refusal(
            f"heads of {model.head_dim} that do not make up the width in llama.cpp "
            f"({model.num_heads} x {model.head_dim} is not {model.d_model})",
            "--for transformers or --for vllm",
        )
    if not any(found.rope):
        raise _refusal("NoPE in every layer in llama.cpp", "--for transformers or --for vllm")
    if found.qk_norm and model.num_layers < 64:
        raise _refusal("QK-norm in fewer than 64 layers in llama.cpp", "--for transformers or --for vllm")


def _refusal(what: str, instead: str) -> UserError:
    return UserError(f"cannot export {what}: no architecture of the target computes it. What works: {instead}")
