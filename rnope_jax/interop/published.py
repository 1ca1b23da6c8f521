"""A published config.json as a model: every generation of keys, nothing believed that contradicts itself."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rnope_jax.config import ModelConfig
from rnope_jax.errors import ConfigError, UserError
from rnope_jax.interop.kinds import GLOBAL, LOCAL, UNBOUNDED
from rnope_jax.interop.untrusted import quoted
from rnope_jax.layers import LayerKind, Pattern

#: How many keys a query of a window layer sees: `sliding_window` (transformers, llama.cpp), or one more
#: (vLLM from 0.29 on, "to match the training convention").
WindowConvention = Literal["transformers", "vllm"]

#: Sizes above this are no sizes.
_LARGEST = 2**31 - 1

#: Keys with one value that our blocks compute; absent means that value too.
_FIXED: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "attention_bias": (False, True),  # biases are looked at: zeros do nothing
    "tie_word_embeddings": (True,),
    "use_embedding_sharing": (True,),
    "use_parallel_block": (True,),
    "use_gated_activation": (True,),
    "position_embedding_type": ("rope_gptj",),
    "rotary_pct": (1, 1.0, None),
    "partial_rotary_factor": (1, 1.0, None),
    "rope_scaling": (None,),
    "order_of_interleaved_layers": ("local_attn_first",),
    "quantization_config": (None,),
    "auto_map": (None,),
    "rms_norm_eps": (None,),
    "logit_softcapping": (None,),
    "attn_logit_softcapping": (None,),
    "is_encoder_decoder": (False, None),
    "num_experts": (None,),
}

#: Keys that give the same period as `sliding_window_pattern`.
_PERIODS = ("sliding_window_pattern", "_sliding_window_pattern", "layer_switch")

#: Keys that are read here; a run keeps these.
KEYS = {
    *("model_type", "architectures", "max_position_embeddings", "bos_token_id", "eos_token_id", "pad_token_id"),
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "head_dim", "layer_norm_eps", "logit_scale", "initializer_range", "use_qk_norm"),
    *("sliding_window", "layer_types", *_PERIODS, "rope_theta", "rope_parameters", *_FIXED),
}

#: Keys whose null means that they are not given.
_NULLABLE = ("num_key_value_heads", "head_dim")


@dataclass(frozen=True)
class _Fields:
    """Typed access to untrusted keys."""

    path: Path
    data: dict[str, Any]

    def refuse(self, name: str, fact: str) -> UserError:
        return UserError(f"{self.path}: {name} = {quoted(self.data.get(name))}: {fact}")

    def size(self, name: str, default: int | None = None) -> int:
        value = self.data.get(name, default)
        if type(value) is not int or not 1 <= value <= _LARGEST:
            raise self.refuse(name, f"must be a whole number from 1 to {_LARGEST}")
        return value

    def number(self, name: str, default: float, data: dict[str, Any] | None = None) -> float:
        value = (self.data if data is None else data).get(name, default)
        if type(value) not in (int, float) or not 1e-30 < value < 1e30:
            raise UserError(f"{self.path}: {name} = {quoted(value)}: must be a positive number")
        return float(value)

    def token(self, name: str) -> None:
        value = self.data.get(name)
        several = value if name == "eos_token_id" and isinstance(value, list) else [value]
        if value is not None and any(type(item) is not int or not 0 <= item <= _LARGEST for item in several):
            raise self.refuse(name, "must be a token id")


def read_model(path: Path, data: dict[str, Any], convention: WindowConvention) -> ModelConfig:
    """The model that a config.json describes, by the rules and defaults of transformers.

    Args:
      path: the file, for messages.
      data: what it holds.
      convention: how `sliding_window` is meant.

    Raises:
      UserError: if it describes another architecture, contradicts itself, or has values that make no sense.
    """
    fields = _Fields(path, {key: value for key, value in data.items() if value is not None or key not in _NULLABLE})
    read: dict[str, Callable[[_Fields], Pattern]] = {
        "cohere2": lambda fields: _cohere2(fields, convention),
        "cohere": _cohere,
    }
    if not isinstance(family := data.get("model_type"), str) or family not in read:
        raise fields.refuse("model_type", "only cohere2 (dense) and cohere can be imported")
    expected = {"cohere2": "Cohere2ForCausalLM", "cohere": "CohereForCausalLM"}[family]
    if data.get("architectures", [expected]) != [expected]:
        raise fields.refuse("architectures", f"must be [{expected}] for {family}")
    for key, allowed in _FIXED.items():
        if key in data and not any(type(data[key]) is type(value) and data[key] == value for value in allowed):
            raise fields.refuse(key, f"only {allowed[0]} can be imported")
    heads, width = fields.size("num_attention_heads", 64), fields.size("hidden_size", 8192)
    if "head_dim" not in fields.data and width % heads:
        raise fields.refuse("num_attention_heads", f"does not divide hidden_size = {width}, and head_dim is not given")
    groups = fields.size("num_key_value_heads", heads)
    if heads % groups:
        raise fields.refuse("num_key_value_heads", f"does not divide num_attention_heads = {heads}")
    fields.size("max_position_embeddings", 8192)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        fields.token(name)
    try:
        return ModelConfig(
            pattern=read[family](fields),
            num_layers=fields.size("num_hidden_layers", 40),
            vocab_size=fields.size("vocab_size", 256_000),
            d_model=width,
            d_ff=fields.size("intermediate_size", 22_528),
            num_heads=heads,
            num_kv_heads=groups,
            head_dim=fields.size("head_dim", width // heads),
            norm_eps=fields.number("layer_norm_eps", 1e-5),
            logit_scale=fields.number("logit_scale", 0.0625),
            init_std=fields.number("initializer_range", 0.02),
        )
    except ConfigError as error:
        raise UserError(f"{path}: {error}") from error


def _cohere(fields: _Fields) -> Pattern:
    return (LayerKind(_theta(fields, None), None, qk_norm=_qk_norm(fields)),)


def _cohere2(fields: _Fields, convention: WindowConvention) -> Pattern:
    count = fields.size("num_hidden_layers", 40)
    period = _period(fields)
    types = fields.data.get("layer_types")
    if types is None:
        local = [bool((layer + 1) % period) for layer in range(min(period, count))]
    else:
        if not isinstance(types, list) or len(types) != count:
            raise fields.refuse("layer_types", f"must be a list of num_hidden_layers = {count} types")
        if unknown := [name for name in types if name not in (LOCAL, GLOBAL)]:
            raise fields.refuse("layer_types", f"{quoted(unknown[0])} is neither {LOCAL} nor {GLOBAL}")
        local = [name == LOCAL for name in types]
        given = [key for key in _PERIODS if fields.data.get(key) is not None]
        if given and any(slides != bool((layer + 1) % period) for layer, slides in enumerate(local)):
            raise fields.refuse(given[0], "contradicts layer_types")
    window = fields.size("sliding_window", 4096) + (1 if convention == "vllm" else 0)
    norm = _qk_norm(fields)
    kinds = {
        True: LayerKind(_theta(fields, 10_000.0), None if window >= UNBOUNDED else window, qk_norm=norm),
        False: LayerKind(None, None, qk_norm=norm),
    }
    shortest = next(p for p in range(1, len(local) + 1) if local == [local[i % p] for i in range(len(local))])
    return tuple(kinds[slides] for slides in local[:shortest])


def _period(fields: _Fields) -> int:
    given = {key: fields.size(key) for key in _PERIODS if fields.data.get(key) is not None}
    if len(set(given.values())) > 1:
        raise UserError(f"{fields.path}: {' and '.join(f'{k} = {v}' for k, v in given.items())} contradict each other")
    period = next(iter(given.values()), 4)
    if given and "sliding_window_pattern" not in given and period != 4 and fields.data.get("layer_types") is None:
        raise fields.refuse(next(iter(given)), "transformers would not read this key; say it with layer_types")
    return period


def _theta(fields: _Fields, default: float | None) -> float:
    """The RoPE base, from the old key, the new one, or both."""
    parameters = fields.data.get("rope_parameters")
    given: dict[str, float] = {}
    if parameters is not None:
        if not isinstance(parameters, dict) or parameters.get("rope_type", "default") != "default":
            raise fields.refuse("rope_parameters", "only the rope_type default can be imported")
        if unknown := sorted(set(parameters) - {"rope_type", "rope_theta"}):
            raise fields.refuse("rope_parameters", f"{quoted(unknown[0])} cannot be imported")
        if parameters.get("rope_theta") is not None:
            given["rope_parameters.rope_theta"] = fields.number("rope_theta", 0, parameters)
    if fields.data.get("rope_theta") is not None:
        given["rope_theta"] = fields.number("rope_theta", 0)
    if len(set(given.values())) > 1:
        raise UserError(f"{fields.path}: {' and '.join(f'{k} = {v}' for k, v in given.items())} contradict each other")
    if not given and default is None:
        raise fields.refuse("rope_theta", "missing, and its default differs between versions of transformers; add it")
    return next(iter(given.values()), default or 0)


def _qk_norm(fields: _Fields) -> bool:
    value = fields.data.get("use_qk_norm", False)
    if not isinstance(value, bool):
        raise fields.refuse("use_qk_norm", "must be true or false")
    return value
