"""Published key sets of every generation describe the model that transformers makes of them, and come back whole."""

import dataclasses
import json
import tracemalloc
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from rnope_jax import flops
from rnope_jax.config import MeshConfig, ModelConfig
from rnope_jax.data import tokenizer
from rnope_jax.errors import UserError
from rnope_jax.interop import export, import_directory, open_source
from rnope_jax.interop.directory import FileWeights, open_directory
from rnope_jax.interop.published import read_model
from rnope_jax.interop.safetensors import Stored
from rnope_jax.layers import LayerKind, nope, qk_norm, rnope_swa, rope
from rnope_jax.model import bind, describe, shardings
from rnope_jax.sharding import make_mesh
from rnope_jax.weights import place
from tests.helpers import assert_close
from tests.interop.files import CODES, SHAPE, random_tensors, read_raw, read_tensors, write_directory, write_raw
from tests.interop.models import small_tokenizer

LOCAL, GLOBAL = "sliding_attention", "full_attention"

# What is known of published files (shared/hf.md, section 3).
COMMAND_R7B = {
    "architectures": ["Cohere2ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 5,
    "cache_implementation": "hybrid",
    "eos_token_id": 255001,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 14336,
    "layer_norm_eps": 1e-05,
    "layer_switch": 4,
    "logit_scale": 0.25,
    "max_position_embeddings": 8192,
    "model_type": "cohere2",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "order_of_interleaved_layers": "local_attn_first",
    "pad_token_id": 0,
    "position_embedding_type": "rope_gptj",
    "rope_scaling": None,
    "rope_theta": 50000,
    "rotary_pct": 1.0,
    "sliding_window": 4096,
    "sliding_window_pattern": 4,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.48.0.dev0",
    "use_cache": True,
    "use_embedding_sharing": True,
    "use_gated_activation": True,
    "use_parallel_block": True,
    "use_parallel_embedding": True,
    "vocab_size": 256000,
}
TINY_AYA = {
    **{key: value for key, value in COMMAND_R7B.items() if key not in ("cache_implementation", "rope_scaling")},
    "_sliding_window_pattern": 4,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "dtype": "bfloat16",
    "hidden_size": 2048,
    "intermediate_size": 11008,
    "layer_types": [LOCAL, LOCAL, LOCAL, GLOBAL] * 9,
    "logit_scale": 1.0,
    "max_position_embeddings": 500000,
    "num_attention_heads": 16,
    "num_hidden_layers": 36,
    "num_key_value_heads": 4,
    "tie_word_embeddings": True,
    "use_qk_norm": False,
    "vocab_size": 262144,
}
COMMAND_R = {
    "architectures": ["CohereForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 5,
    "eos_token_id": 255001,
    "hidden_act": "silu",
    "hidden_size": 8192,
    "initializer_range": 0.02,
    "intermediate_size": 22528,
    "layer_norm_eps": 1e-05,
    "logit_scale": 0.0625,
    "max_position_embeddings": 8192,
    "model_max_length": 131072,
    "model_type": "cohere",
    "num_attention_heads": 64,
    "num_hidden_layers": 40,
    "num_key_value_heads": 64,
    "pad_token_id": 0,
    "rope_theta": 8000000.0,
    "torch_dtype": "float16",
    "use_cache": True,
    "vocab_size": 256000,
}

#: The same key sets for a model that fits into a test: what they say of sizes, and nothing else, is other.
SMALL = {
    **SHAPE,
    "num_hidden_layers": 6,
    "sliding_window": 6,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SMALL_R7B = {**COMMAND_R7B, **SMALL, "head_dim": 4}
SMALL_AYA = {**TINY_AYA, **SMALL, "head_dim": 4, "layer_types": [LOCAL, LOCAL, LOCAL, GLOBAL, LOCAL, LOCAL]}
SMALL_R = {**COMMAND_R, **{key: value for key, value in SMALL.items() if key != "sliding_window"}}
#: What transformers 5 writes: neither rope_theta nor sliding_window_pattern.
SMALL_5 = {
    **{key: value for key, value in SMALL_AYA.items() if key not in ("rope_theta", "layer_switch", "torch_dtype")},
    "rope_parameters": {"rope_theta": 50000.0, "rope_type": "default"},
}
for key in ("sliding_window_pattern", "_sliding_window_pattern"):
    del SMALL_5[key]


def read(data: dict[str, Any], convention: Any = "transformers", **changes: Any) -> ModelConfig:
    merged = {key: value for key, value in (data | changes).items() if value is not ...}
    return read_model(Path("config.json"), merged, convention)


@pytest.fixture(scope="module")
def transformers():
    return pytest.importorskip("transformers")


# --- what config.json says -------------------------------------------------------------------------


def test_command_r7b():
    model = read(COMMAND_R7B)
    assert model == ModelConfig(
        **{"pattern": rnope_swa(window=4096, theta=50_000.0, ratio=3), "num_layers": 32, "vocab_size": 256_000},
        **{"d_model": 4096, "d_ff": 14336, "num_heads": 32, "num_kv_heads": 8, "head_dim": 128, "logit_scale": 0.25},
    )
    layer = 2 * 4096**2 + 2 * 4096 * 1024 + 3 * 4096 * 14336 + 4096
    assert flops.parameters(model).total == 256_000 * 4096 + 32 * layer + 4096


def test_tiny_aya():
    assert read(TINY_AYA) == ModelConfig(
        **{"pattern": rnope_swa(window=4096, theta=50_000.0, ratio=3), "num_layers": 36, "vocab_size": 262_144},
        **{"d_model": 2048, "d_ff": 11008, "num_heads": 16, "num_kv_heads": 4, "head_dim": 128, "logit_scale": 1.0},
    )


def test_command_r():
    assert read(COMMAND_R) == ModelConfig(
        **{"pattern": rope(8e6), "num_layers": 40, "vocab_size": 256_000, "d_model": 8192, "d_ff": 22528},
        **{"num_heads": 64, "num_kv_heads": 64, "head_dim": 128, "logit_scale": 0.0625},
    )
    assert read(COMMAND_R, use_qk_norm=True).pattern == qk_norm(8e6)


NOT_GIVEN = {"sliding_window_pattern": ..., "layer_switch": ...}
PATTERNS: dict[str, tuple[dict[str, Any], tuple[LayerKind, ...]]] = {
    "default": (NOT_GIVEN, rnope_swa(6, 50_000.0, 3)),
    "1:1": ({"sliding_window_pattern": 2, "layer_switch": 2}, rnope_swa(6, 50_000.0, 1)),
    "4:1": ({"sliding_window_pattern": 5, "layer_switch": ...}, rnope_swa(6, 50_000.0, 4)),
    "all full": ({"sliding_window_pattern": 1, "layer_switch": ...}, nope()),
    "longer than the model": ({"sliding_window_pattern": 7, "layer_switch": ...}, (LayerKind(50_000.0, 6),)),
    "null": ({"layer_types": None}, rnope_swa(6, 50_000.0, 3)),
    "types: 1:1": ({**NOT_GIVEN, "layer_types": [LOCAL, GLOBAL] * 3}, rnope_swa(6, 50_000.0, 1)),
    "types: global first": (
        {**NOT_GIVEN, "layer_types": [GLOBAL, LOCAL] * 3},
        rnope_swa(6, 50_000.0, 1, "global_first"),
    ),
    "types: all full": ({**NOT_GIVEN, "layer_types": [GLOBAL] * 6}, nope()),
    "types: all local": ({**NOT_GIVEN, "layer_types": [LOCAL] * 6}, (LayerKind(50_000.0, 6),)),
    "types: no period": (
        {**NOT_GIVEN, "layer_types": [LOCAL] * 5 + [GLOBAL]},
        rnope_swa(6, 50_000.0, 5),
    ),
    "types: a period cut short": (
        {**NOT_GIVEN, "layer_types": [GLOBAL, LOCAL, LOCAL, LOCAL, GLOBAL, LOCAL]},
        rnope_swa(6, 50_000.0, 3, "global_first"),
    ),
    "no window to speak of": ({"sliding_window": 2**24}, (*[LayerKind(50_000.0, None)] * 3, *nope())),
}


@pytest.mark.parametrize("name", PATTERNS)
def test_patterns(transformers, name):
    changes, pattern = PATTERNS[name]
    model = read(SMALL_R7B, **changes)
    assert model.pattern == pattern
    # and what transformers makes of the same keys
    keys = {key: value for key, value in (SMALL_R7B | changes).items() if value is not ...}
    theirs = transformers.Cohere2Config.from_dict(keys)
    assert theirs.layer_types == [LOCAL if kind.rope_theta else GLOBAL for kind in model.layer_kinds]


def test_the_window_is_meant_as_transformers_or_as_vllm_means_it():
    assert [kind.window for kind in read(SMALL_R7B).pattern] == [6, 6, 6, None]
    assert [kind.window for kind in read(SMALL_R7B, "vllm").pattern] == [7, 7, 7, None]
    assert read(SMALL_R7B, "vllm", sliding_window=2**24 - 1).pattern[0].window is None
    assert read(COMMAND_R, "vllm") == read(COMMAND_R)


THETAS = {
    "old": {"rope_theta": 1e6},
    "old, whole": {"rope_theta": 1_000_000},
    "new": {"rope_theta": ..., "rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}},
    "both": {"rope_theta": 1e6, "rope_parameters": {"rope_theta": 1_000_000, "rope_type": "default"}},
    "new without a type": {"rope_theta": ..., "rope_parameters": {"rope_theta": 1e6}},
    "new without a base": {"rope_theta": 1e6, "rope_parameters": {"rope_type": "default"}},
    "null": {"rope_theta": 1e6, "rope_parameters": None},
}


@pytest.mark.parametrize("name", THETAS)
@pytest.mark.parametrize("family", ["cohere2", "cohere"])
def test_rope_bases(transformers, name, family):
    data, kind = (SMALL_R7B, "Cohere2Config") if family == "cohere2" else (SMALL_R, "CohereConfig")
    assert read(data, **THETAS[name]).pattern[0].rope_theta == 1e6
    keys = {key: value for key, value in (data | THETAS[name]).items() if value is not ...}
    assert getattr(transformers, kind).from_dict(keys).rope_parameters["rope_theta"] == 1e6


@pytest.mark.parametrize("keys", [{}, {"rope_parameters": {"rope_type": "default"}}])
def test_the_default_base_of_cohere2(transformers, keys):
    data = {key: value for key, value in SMALL_R7B.items() if key not in ("rope_theta", "rope_scaling")} | keys
    assert read(data).pattern[0].rope_theta == 10_000
    assert transformers.Cohere2Config.from_dict(data).rope_parameters["rope_theta"] == 10_000


@pytest.mark.parametrize("family", ["cohere2", "cohere"])
def test_absent_keys_mean_what_they_mean_in_transformers(transformers, family):
    theirs = getattr(transformers, {"cohere2": "Cohere2Config", "cohere": "CohereConfig"}[family])()
    model = read({"model_type": family, "rope_theta": 10_000.0})
    assert (model.num_layers, model.d_model, model.d_ff) == (
        theirs.num_hidden_layers,
        theirs.hidden_size,
        theirs.intermediate_size,
    )
    assert (model.num_heads, model.num_kv_heads) == (theirs.num_attention_heads, theirs.num_key_value_heads)
    assert model.head_dim == theirs.hidden_size // theirs.num_attention_heads
    assert (model.vocab_size, model.logit_scale, model.norm_eps, model.init_std) == (
        theirs.vocab_size,
        theirs.logit_scale,
        theirs.layer_norm_eps,
        theirs.initializer_range,
    )
    if family == "cohere2":
        assert model.layer_kinds[2:4] == (LayerKind(10_000.0, theirs.sliding_window), LayerKind(None, None))


def test_heads_by_default():
    assert read(SMALL_R7B, head_dim=...).head_dim == 4
    assert read(SMALL_R7B, head_dim=None).head_dim == 4
    assert read(SMALL_R7B, head_dim=6).head_dim == 6
    assert read(SMALL_R7B, num_key_value_heads=...).num_kv_heads == 2
    assert read(SMALL_R7B, num_key_value_heads=None).num_kv_heads == 2


@pytest.mark.parametrize(
    "family",
    ["cohere2_moe", "cohere2_vision", "cohere_compass", "aya_vision", "llama", "gemma3", "smollm3", "qwen3", "mistral"],
)
def test_other_families_are_refused_by_name(family):
    with pytest.raises(UserError, match=f"model_type = '{family}': only cohere2 .dense. and cohere can be imported"):
        read(SMALL_R7B, model_type=family)


# --- weights ---------------------------------------------------------------------------------------


def biases(data: dict[str, Any], value: float = 0.0) -> dict[str, np.ndarray]:
    """Biases as attention_bias gives them."""
    found = {}
    for name, weight in random_tensors(data).items():
        if "_proj.weight" in name and "self_attn" in name:
            found[name.replace("weight", "bias")] = np.full(len(weight), value, np.float32)
    return found


def mixed(data: dict[str, Any]) -> dict[str, np.ndarray]:
    """Tensors of all types, in one stack of layers too."""
    return {
        name: value.astype(list(CODES.values())[i % 3]) for i, (name, value) in enumerate(random_tensors(data).items())
    }


def with_head(data: dict[str, Any]) -> dict[str, np.ndarray]:
    found = random_tensors(data, "BF16")
    return {**found, "lm_head.weight": found["model.embed_tokens.weight"]}


def written(path: Path, name: str) -> Path:
    """A directory of one sort."""
    match name:
        case "R7B":
            return write_directory(path, SMALL_R7B, random_tensors(SMALL_R7B, "BF16"))
        case "R7B in shards":
            return write_directory(path, SMALL_R7B, random_tensors(SMALL_R7B, "BF16"), shards=3)
        case "Aya":
            return write_directory(path, SMALL_AYA)
        case "new keys":
            return write_directory(path, SMALL_5)
        case "other heads":
            data = SMALL_5 | {"head_dim": 6, "layer_types": [GLOBAL, LOCAL, LOCAL, GLOBAL, LOCAL, GLOBAL]}
            return write_directory(path, data)
        case "R":
            return write_directory(path, SMALL_R, random_tensors(SMALL_R, "F16"))
        case "R with QK-norm":
            data = SMALL_R | {"use_qk_norm": True, "eos_token_id": [2, 3]}
            return write_directory(path, data)
        case "mixed types":
            return write_directory(path, SMALL_R7B, mixed(SMALL_R7B))
        case "a head":
            return write_directory(path, SMALL_R7B, with_head(SMALL_R7B))
        case "biases of zero":
            data = SMALL_R7B | {"attention_bias": True}
            return write_directory(path, data, random_tensors(data) | biases(data) | biases(data, -0.0))
    raise AssertionError(name)


SORTS = ["R7B", "R7B in shards", "Aya", "new keys", "other heads", "R", "R with QK-norm", "mixed types", "a head"]


@pytest.mark.parametrize("name", [*SORTS, "biases of zero"])
def test_import_then_export_gives_the_same_tensors(tmp_path, name):
    original = written(tmp_path / "hf", name)
    import_directory(original, tmp_path / "run", report=str)
    export(tmp_path / "run", tmp_path / "out", check=False, report=str)
    before = {key: value for key, value in read_tensors(original).items() if "bias" not in key and "head" not in key}
    after = read_tensors(tmp_path / "out")
    assert before.keys() == after.keys()
    for key, value in before.items():
        assert (after[key].dtype, after[key].shape) == (value.dtype, value.shape), key
        assert after[key].tobytes() == value.tobytes(), key
    # a second round changes nothing at all
    import_directory(tmp_path / "out", tmp_path / "again", report=str)
    assert open_source(tmp_path / "again").model == open_source(tmp_path / "run").model
    assert {key: value.tobytes() for key, value in read_tensors(tmp_path / "again/imported").items()} == {
        key: value.tobytes() for key, value in after.items()
    }


@pytest.mark.parametrize("name", SORTS)
def test_import_then_export_gives_an_equivalent_config(transformers, tmp_path, name):
    original = written(tmp_path / "hf", name)
    import_directory(original, tmp_path / "run", report=str)
    export(tmp_path / "run", tmp_path / "out", check=False, report=str)
    before, after = (transformers.AutoConfig.from_pretrained(path) for path in (original, tmp_path / "out"))
    assert type(before) is type(after)
    fields = [field.name for field in dataclasses.fields(type(before)) if field.name not in ("dtype",)]
    assert {"layer_types", "sliding_window"} <= set(fields) or before.model_type == "cohere"
    differing = {
        name: (getattr(before, name), getattr(after, name))
        for name in [*fields, "head_dim"]
        if getattr(before, name, None) != getattr(after, name, None)
        # made where the class has none of its own
        and not (name == "head_dim" and before.model_type == "cohere")
    }
    for ignored in ("transformers_version", "_name_or_path", "name_or_path"):
        differing.pop(ignored, None)
    assert not differing


def test_the_convention_survives_the_round(tmp_path):
    original = written(tmp_path / "hf", "R7B")
    import_directory(original, tmp_path / "run", convention="vllm", report=str)
    source = open_source(tmp_path / "run")
    assert source.model.pattern[0].window == 7
    assert source.config.init.window_convention == "vllm"
    for target, window in {"vllm": 6, "transformers": 7}.items():
        export(tmp_path / "run", tmp_path / target, target=target, check=False, report=str)
        assert json.loads((tmp_path / target / "config.json").read_text())["sliding_window"] == window


def our_logits(path: Path, tokens: np.ndarray) -> np.ndarray:
    source = open_source(path)
    config = dataclasses.replace(source.model, compute_dtype="float32", remat="none", attention="blockwise")
    params = place(source.weights, config, jax.sharding.SingleDeviceSharding(jax.devices()[0]))
    return np.asarray(jax.jit(lambda params, tokens: bind(config, params)(tokens))(params, tokens))


def their_logits(transformers, path: Path, tokens: np.ndarray) -> np.ndarray:
    import torch

    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(input_ids=torch.tensor(tokens), use_cache=False).logits.numpy()


@pytest.mark.parametrize("name", ["R7B in shards", "other heads", "R with QK-norm", "mixed types"])
def test_logits_equal_those_of_transformers(transformers, tmp_path, name):
    original = written(tmp_path / "hf", name)
    import_directory(original, tmp_path / "run", report=str)
    tokens = np.random.default_rng(0).integers(3, SHAPE["vocab_size"], (2, 26))  # over four windows
    expected = their_logits(transformers, original, tokens)
    assert_close(our_logits(tmp_path / "run", tokens), expected, 1e-4)


@pytest.mark.parametrize("shards", [False, True])
@pytest.mark.parametrize("family", ["Cohere2", "Cohere"])
def test_what_save_pretrained_writes(transformers, tmp_path, family, shards):
    """The newest files, made by those who read them."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    options: dict[str, Any] = {
        **SHAPE,
        **{"num_hidden_layers": 3, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "logit_scale": 0.5},
        **{"max_position_embeddings": 64, "initializer_range": 0.2, "layer_norm_eps": 1e-3},
        "rope_parameters": {"rope_type": "default", "rope_theta": 20_000.0},
    }
    if family == "Cohere2":
        options |= {"sliding_window": 6, "layer_types": [GLOBAL, LOCAL, LOCAL]}
    else:
        options |= {"use_qk_norm": True}
    theirs = getattr(transformers, f"{family}ForCausalLM")(getattr(transformers, f"{family}Config")(**options)).eval()
    with torch.no_grad():
        for name, weight in theirs.named_parameters():
            if "norm" in name:
                weight.uniform_(0.5, 1.5)
    theirs.save_pretrained(tmp_path / "hf", max_shard_size="4KB" if shards else "1GB")
    keys = json.loads((tmp_path / "hf/config.json").read_text())
    assert "rope_parameters" in keys
    assert "rope_theta" not in keys
    assert (tmp_path / "hf/model.safetensors.index.json").exists() == shards
    imported = import_directory(tmp_path / "hf", tmp_path / "run", report=str).model
    kinds = [LayerKind(None, None), *[LayerKind(20_000.0, 6)] * 2] if family == "Cohere2" else qk_norm(20_000.0) * 3
    assert imported.layer_kinds == tuple(kinds)
    assert (imported.norm_eps, imported.logit_scale, imported.init_std) == (1e-3, 0.5, 0.2)
    tokens = np.random.default_rng(0).integers(3, SHAPE["vocab_size"], (2, 26))
    with torch.no_grad():
        expected = theirs(input_ids=torch.tensor(tokens), use_cache=False).logits.numpy()
    assert_close(our_logits(tmp_path / "run", tokens), expected, 1e-4)


@pytest.mark.parametrize("start", range(4))
def test_values_at_any_byte(tmp_path, start):
    """Headers need not be padded, and half precision may stand before single precision."""
    half = random_tensors(SMALL_R7B, "BF16")
    tensors = half | {"model.embed_tokens.weight": random_tensors(SMALL_R7B)["model.embed_tokens.weight"]}
    path = write_directory(tmp_path / "hf", SMALL_R7B, tensors)
    header, values = read_raw(path / "model.safetensors")
    text = json.dumps(header).encode()
    write_raw(path / "model.safetensors", text + b" " * (start - len(text) % 4 + 4), values)
    weights = open_directory(path).weights
    assert weights.stored["model.embed_tokens.weight"].offset % 4 == start
    np.testing.assert_array_equal(weights.read("embedding"), tensors["model.embed_tokens.weight"])
    np.testing.assert_array_equal(weights.read("norm.scale"), half["model.norm.weight"])
    import_directory(path, tmp_path / "run", report=str)
    assert read_tensors(tmp_path / "run/imported")["model.norm.weight"].tobytes() == half["model.norm.weight"].tobytes()


# --- reading by the piece --------------------------------------------------------------------------


@pytest.fixture
def weights(tmp_path) -> tuple[ModelConfig, FileWeights, dict[str, np.ndarray]]:
    """Two periods and a remainder, with sizes that eight devices divide."""
    data = SMALL_5 | {"hidden_size": 32, "intermediate_size": 48, "vocab_size": 272, "num_attention_heads": 8}
    data |= {"num_key_value_heads": 4, "num_hidden_layers": 5, "layer_types": [LOCAL, GLOBAL, LOCAL, GLOBAL, LOCAL]}
    tensors = mixed(data)
    directory = open_directory(write_directory(tmp_path / "hf", data, tensors, shards=2))
    return directory.model, directory.weights, tensors


@pytest.fixture
def touched(monkeypatch) -> list[tuple[str, int]]:
    """File and place of every tensor whose values are asked for."""
    found: list[tuple[str, int]] = []
    values = Stored.values

    def record(self: Stored) -> np.ndarray:
        found.append((self.file.name, self.offset))
        return values(self)

    monkeypatch.setattr(Stored, "values", record)
    return found


def test_a_slice_of_layers_touches_these_layers_alone(weights, touched):
    config, files, tensors = weights
    assert describe(config)["periods.1.attention.query"].shape == (2, 32, 8, 4)

    def names() -> list[str]:
        by_place = {(stored.file.name, stored.offset): name for name, stored in files.stored.items()}
        found = [by_place[place] for place in touched]
        touched.clear()
        return found

    query = files.read("periods.1.attention.query", (slice(1, 2), slice(0, 16), slice(2, 4), slice(None)))
    assert names() == ["model.layers.3.self_attn.q_proj.weight"]
    expected = tensors["model.layers.3.self_attn.q_proj.weight"].reshape(8, 4, 32).transpose(2, 0, 1)[:16, 2:4]
    np.testing.assert_array_equal(query, expected[None])

    up = files.read("periods.0.mlp.up", (slice(0, 2), slice(8, 16), slice(None)))
    assert names() == ["model.layers.0.mlp.up_proj.weight", "model.layers.2.mlp.up_proj.weight"]
    assert up.shape == (2, 8, 48)

    files.read("remainder.0.norm.scale")
    assert names() == ["model.layers.4.input_layernorm.weight"]
    files.read("embedding", (slice(3, 5), slice(None)))
    assert names() == ["model.embed_tokens.weight"]


def test_opening_a_directory_touches_no_values(tmp_path, touched):
    open_directory(write_directory(tmp_path / "hf", SMALL_R7B))
    assert touched == []


def test_a_piece_costs_a_piece(tmp_path):
    """A row of a large tensor does not bring in the tensor."""
    data = SMALL_R7B | {"vocab_size": 500_000}
    files = open_directory(write_directory(tmp_path / "hf", data)).weights
    files.read("embedding", (slice(0, 1), slice(None)))
    tracemalloc.start()
    try:
        row = files.read("embedding", (slice(400_000, 400_002), slice(2, 4)))
        wide = np.array(row, np.float32)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert wide.shape == (2, 2)
    assert peak < 100_000


def test_on_a_mesh_the_parameters_are_the_same_and_each_device_reads_its_part(weights, monkeypatch):
    config, files, _ = weights
    mesh = make_mesh(MeshConfig(data=1, fsdp=4, tensor=2))
    placement = shardings(config, mesh)
    single = place(files, config, jax.sharding.SingleDeviceSharding(jax.devices()[0]))
    pieces: dict[str, set[tuple[int, ...]]] = {}
    read = FileWeights.read

    def record(self: FileWeights, name: str, index: Any = ()) -> np.ndarray:
        value = read(self, name, index)
        pieces.setdefault(name, set()).add(value.shape)
        return value

    monkeypatch.setattr(FileWeights, "read", record)
    sharded = place(files, config, placement)
    assert sharded.keys() == single.keys() == describe(config).keys()
    for name, value in single.items():
        assert sharded[name].sharding == placement[name]
        assert sharded[name].dtype == value.dtype == np.float32
        np.testing.assert_array_equal(sharded[name], value, err_msg=name)
        assert pieces[name] == {placement[name].shard_shape(value.shape)}, name
    shares = [value.size // np.prod(placement[name].shard_shape(value.shape)) for name, value in single.items()]
    assert max(shares) == 8


def test_each_layer_keeps_its_type(weights):
    _, files, tensors = weights
    for name, parts in files.tensors.items():
        for layer, tensor in enumerate(parts):
            assert files.dtype(name, layer) == tensors[tensor.name].dtype
    assert {files.dtype("periods.0.mlp.up", layer) for layer in range(2)} != {np.dtype(np.float32)}


def test_the_header_of_an_export_is_what_others_expect(tmp_path):
    """Metadata that transformers insists on, values from a multiple of eight, no tensor out of order."""
    import_directory(written(tmp_path / "hf", "mixed types"), tmp_path / "run", report=str)
    file = tmp_path / "run/imported/model.safetensors"
    header, _ = read_raw(file)
    assert header.pop("__metadata__") == {"format": "pt"}
    assert int.from_bytes(file.read_bytes()[:8], "little") % 8 == 0
    ends = [entry["data_offsets"] for entry in header.values()]
    assert [start for start, _ in ends] == [0, *(end for _, end in ends[:-1])]


def test_start_and_end_tokens_may_be_named_by_number(tmp_path):
    """A tokenizer.json without settings beside it: config.json says which tokens start and end a text."""
    ids = {"bos_token_id": small_tokenizer().bos_id, "eos_token_id": small_tokenizer().eos_id}
    path = write_directory(tmp_path / "hf", {**SMALL_R7B, **ids, "vocab_size": small_tokenizer().vocab_size})
    (path / "tokenizer.json").write_text(small_tokenizer().backend.to_str())
    import_directory(path, tmp_path / "run", report=str)
    taken = tokenizer.load(tmp_path / "run" / "tokenizer")
    assert (taken.bos_id, taken.eos_id) == tuple(ids.values())
