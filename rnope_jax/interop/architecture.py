"""Which architecture of another program computes what a model computes, and the config.json that says so.

Two classes of transformers have the Cohere block:

- `CohereForCausalLM`: full attention with RoPE in every layer, with or without QK-norm;
- `Cohere2ForCausalLM`: layers of two types, "sliding_attention" with a window and RoPE, and
  "full_attention" without position encoding, in any order.

What neither can carry is refused with the reason; nothing is approximated.
"""

from typing import Any

from rnope_jax.config import ModelConfig
from rnope_jax.interop.kinds import UNBOUNDED, attention, is_cohere1, refusal
from rnope_jax.interop.targets import TARGETS, TargetName


def architecture(model: ModelConfig, target: TargetName) -> dict[str, Any]:
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
    program = TARGETS[target]
    if found.qk_norm and not is_cohere1(found) and not program.norms_hybrids:
        raise refusal(
            "QK-norm together with windows or NoPE layers",
            "--for vllm, whose Cohere2 applies it; transformers has it with RoPE in every layer only (qk_norm())",
        )
    program.check(model, found)
    if is_cohere1(found):
        return {"architectures": ["CohereForCausalLM"], "model_type": "cohere", **shape}
    hybrid: dict[str, Any] = {
        "sliding_window": (UNBOUNDED if found.window is None else found.window) - program.extra_keys,
        "layer_types": found.layer_types,
        # All that transformers before 4.53 knows: without it they would take 4, with null they raise.
        "sliding_window_pattern": found.period,
    }
    if found.period is not None:
        hybrid["order_of_interleaved_layers"] = "local_attn_first"  # exllamav3 asserts it
    return {"architectures": ["Cohere2ForCausalLM"], "model_type": "cohere2", **shape, **hybrid}
