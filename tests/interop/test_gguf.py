"""GGUF files say what the model is, hold its parameters bit for bit, and its tokenizer."""

import dataclasses
import json
import shutil
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from tokenizers import Regex, normalizers, pre_tokenizers

gguf = pytest.importorskip("gguf")

from rnope_jax import interop  # noqa: E402
from rnope_jax.config import ModelConfig  # noqa: E402
from rnope_jax.errors import UserError  # noqa: E402
from rnope_jax.interop import verify  # noqa: E402
from rnope_jax.interop.gguf import _WORDS  # noqa: E402
from rnope_jax.interop.kinds import UNBOUNDED  # noqa: E402
from rnope_jax.layers import nope, qk_norm, rnope, rnope_swa, rope  # noqa: E402
from rnope_jax.run import Run  # noqa: E402
from tests.helpers import random_params  # noqa: E402
from tests.interop.models import VOCAB, make_run, model, small_tokenizer  # noqa: E402

MODEL = model(pattern=rnope_swa(8, 50_000.0, 2, "global_first"), num_layers=5, vocab_size=VOCAB + 3, mup_base_width=16)


def export(run: Run, out: Path, **options) -> interop.Exported:
    return interop.export_gguf(
        run.path, out, **{"dtype": "float32", "check": False, "report": lambda _: None, **options}
    )


class Read:
    """A file as the gguf package reads it."""

    def __init__(self, path: Path):
        reader = gguf.GGUFReader(path)
        self.keys = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
        self.tensors = {tensor.name: np.array(tensor.data) for tensor in reader.tensors}
        self.types = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}


def expected_tensors(config: ModelConfig) -> dict[str, np.ndarray]:
    """The file's tensors from our parameters: PyTorch's layout, [outputs, inputs]."""
    params = {name: np.asarray(value) for name, value in random_params(config).items()}
    found = {"token_embd.weight": params["embedding"], "output_norm.weight": params["norm.scale"]}
    period = len(config.pattern)
    for layer in range(config.num_layers):
        times, slot = divmod(layer, period)
        if times < config.num_periods:
            own = {name: value[times] for name, value in params.items() if name.startswith(f"periods.{slot}.")}
        else:
            own = {name: value for name, value in params.items() if name.startswith(f"remainder.{slot}.")}
        own = {name.split(".", 2)[2]: value for name, value in own.items()}
        width = config.d_model
        found |= {
            f"blk.{layer}.attn_norm.weight": own["norm.scale"],
            f"blk.{layer}.attn_q.weight": own["attention.query"].reshape(width, -1).T,
            f"blk.{layer}.attn_k.weight": own["attention.key"].reshape(width, -1).T,
            f"blk.{layer}.attn_v.weight": own["attention.value"].reshape(width, -1).T,
            f"blk.{layer}.attn_output.weight": own["attention.output"].reshape(-1, width).T,
            f"blk.{layer}.ffn_gate.weight": own["mlp.gate"].T,
            f"blk.{layer}.ffn_up.weight": own["mlp.up"].T,
            f"blk.{layer}.ffn_down.weight": own["mlp.down"].T,
        }
    return found


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    return make_run(tmp_path_factory.mktemp("gguf") / "run", MODEL)


def test_what_the_file_says(run, tmp_path):
    made = export(run, tmp_path / "model.gguf")
    assert made.path == tmp_path / "model.gguf"
    keys = Read(made.path).keys
    tokens = {name: keys.pop(name) for name in list(keys) if name.startswith("tokenizer.")}
    assert keys.pop("cohere2.attention.layer_norm_epsilon") == pytest.approx(1e-5)
    assert keys == {
        "general.architecture": "cohere2",
        "general.name": "tiny",
        "general.file_type": gguf.LlamaFileType.ALL_F32,
        "cohere2.block_count": 5,
        "cohere2.context_length": 32,
        "cohere2.embedding_length": 32,
        "cohere2.feed_forward_length": 40,
        "cohere2.attention.head_count": 4,
        "cohere2.attention.head_count_kv": 2,
        "cohere2.attention.key_length": 8,
        "cohere2.attention.value_length": 8,
        "cohere2.attention.sliding_window": 8,
        "cohere2.attention.sliding_window_pattern": [False, True, True, False, True],
        "cohere2.logit_scale": 0.125,
        "cohere2.vocab_size": VOCAB + 3,
        "cohere2.rope.freq_base": 50_000.0,
        "cohere2.rope.dimension_count": 8,
        "cohere2.rope.scaling.type": "none",
    }
    vocabulary = small_tokenizer().backend.get_vocab()
    by_number = sorted(vocabulary, key=vocabulary.__getitem__)
    assert tokens["tokenizer.ggml.tokens"] == [*by_number, *(f"[PAD{VOCAB + i}]" for i in range(3))]
    kinds = gguf.TokenType
    normal = [kinds.NORMAL] * (VOCAB - 3)
    assert tokens["tokenizer.ggml.token_type"] == [*[kinds.CONTROL] * 3, *normal, *[kinds.UNUSED] * 3]
    merges = json.loads(small_tokenizer().backend.to_str())["model"]["merges"]
    assert tokens["tokenizer.ggml.merges"] == [" ".join(pair) for pair in merges]
    assert tokens["tokenizer.ggml.model"] == "gpt2"
    assert tokens["tokenizer.ggml.pre"] == "gpt-2"
    ids = {name: tokens[f"tokenizer.ggml.{name}_token_id"] for name in ("bos", "eos", "padding")}
    assert ids == {"bos": 1, "eos": 2, "padding": 0}
    assert tokens["tokenizer.ggml.add_bos_token"] is True
    assert tokens["tokenizer.ggml.add_eos_token"] is False


@pytest.mark.parametrize(
    ("pattern", "name", "window", "local"),
    [
        (rope(500_000.0), "command-r", None, None),
        (rnope(4e6, 2), "cohere2", UNBOUNDED, [True, True, False]),
        (rnope_swa(8)[:1], "cohere2", 8, [True, True, True]),
    ],
    ids=["rope", "rnope", "windows only"],
)
def test_architectures(tmp_path, pattern, name, window, local):
    export(make_run(tmp_path / "run", model(pattern=pattern, num_layers=3)), tmp_path / "model.gguf")
    keys = Read(tmp_path / "model.gguf").keys
    assert keys["general.architecture"] == name
    assert keys[f"{name}.rope.freq_base"] == pattern[0].rope_theta
    assert keys.get(f"{name}.attention.sliding_window") == window
    assert keys.get(f"{name}.attention.sliding_window_pattern") == local


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_parameters_bit_for_bit(run, tmp_path, dtype):
    made = export(run, tmp_path / "out", dtype=dtype)
    assert made.path == tmp_path / "out" / "model.gguf"
    read = Read(made.path)
    expected = expected_tensors(MODEL)
    assert read.tensors.keys() == expected.keys()
    short = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}[dtype]
    kind = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}[dtype]
    for name, value in expected.items():
        is_norm = value.ndim == 1
        assert read.types[name] == ("F32" if is_norm else short)
        wanted = np.ascontiguousarray(value if is_norm else value.astype(kind))
        assert read.tensors[name].tobytes() == wanted.tobytes(), name  # norms are not rounded
    assert made.bytes == sum(tensor.nbytes for tensor in read.tensors.values())


def with_tokenizer(run: Run, path: Path, change) -> Run:
    """The run with another tokenizer.json."""
    shutil.copytree(run.path, path)
    file = path / "tokenizer" / "tokenizer.json"
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))
    return Run(path)


def pre(*steps: pre_tokenizers.PreTokenizer):
    """Replaces how text is cut."""

    def change(data: dict) -> None:
        state = pre_tokenizers.Sequence(list(steps)).__getstate__()
        data["pre_tokenizer"] = json.loads(state)

    return change


def normal(normalizer: normalizers.Normalizer):
    def change(data: dict) -> None:
        data["normalizer"] = json.loads(normalizer.__getstate__())

    return change


def old(data: dict) -> None:
    """As GPT-2's own file: keys that were not thought of yet, and merges as text."""
    data["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}
    data["model"]["merges"] = [" ".join(pair) for pair in data["model"]["merges"]]


def ignoring(change):
    def both(data: dict) -> None:
        change(data)
        data["model"]["ignore_merges"] = True

    return both


BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False)
WORDS = (
    pre_tokenizers.Split(Regex(_WORDS), "isolated"),
    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
)


@pytest.mark.parametrize(
    ("change", "name"),
    {
        "gpt-2": (pre(BYTES), "gpt-2"),
        "an older file": (old, "gpt-2"),
        "command-r": (pre(pre_tokenizers.Digits(individual_digits=True), BYTES), "command-r"),
        "llama-bpe": (pre(*WORDS), "llama-bpe"),
        "whole words": (ignoring(pre(*WORDS)), "llama-bpe"),
        "composed text": (normal(normalizers.NFC()), "gpt-2"),
    }.values(),
)
def test_ways_of_cutting_text_that_llama_cpp_has_a_name_for(run, tmp_path, change, name):
    export(with_tokenizer(run, tmp_path / "run", change), tmp_path / "model.gguf")
    assert Read(tmp_path / "model.gguf").keys["tokenizer.ggml.pre"] == name


def unigram(data: dict) -> None:
    data["model"] = {"type": "Unigram", "unk_id": 0, "vocab": [["<|pad|>", 0.0], ["<|bos|>", 0.0], ["<|eos|>", 0.0]]}


def affix(data: dict) -> None:
    data["model"]["end_of_word_suffix"] = "</w>"
    data["model"]["merges"] = []


def more_tokens(data: dict) -> None:
    new = {"id": VOCAB + 8, "content": "<extra>", "special": True}
    data["added_tokens"].append(data["added_tokens"][0] | new)
    data["model"]["vocab"] |= {f"extra{i}": VOCAB + i for i in range(9)}
    data["model"]["vocab"]["<extra>"] = data["model"]["vocab"].pop("extra8")


CUTS = "cuts text .*; it has for gpt-2, command-r, llama-bpe. What works: --for transformers or --for vllm"


@pytest.mark.parametrize(
    ("change", "message"),
    {
        "words": (pre(pre_tokenizers.Whitespace()), r"no name for the way .* \(Whitespace\); it"),
        "a space in front": (pre(pre_tokenizers.ByteLevel(add_prefix_space=True)), CUTS),
        "digits in groups": (pre(pre_tokenizers.Digits(individual_digits=False), BYTES), CUTS),
        "another expression": (pre(pre_tokenizers.Split(Regex(r"\w+"), "isolated"), WORDS[1]), CUTS),
        "merges ignored": (ignoring(lambda data: None), CUTS),
        "another model": (unigram, "llama.cpp reads byte-level BPE from here, not Unigram"),
        "lower case": (normal(normalizers.Lowercase()), "llama.cpp does not know Lowercase of this tokenizer"),
        "a suffix": (affix, "llama.cpp does not know end_of_word_suffix of this tokenizer"),
        "too many tokens": (more_tokens, f"{VOCAB + 9} tokens, but the model has {VOCAB + 3}"),
    }.values(),
)
def test_tokenizers_that_llama_cpp_would_read_otherwise_are_refused(run, tmp_path, change, message):
    changed = with_tokenizer(run, tmp_path / "run", change)
    with pytest.raises(UserError, match=message):
        export(changed, tmp_path / "out.gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize(
    ("pattern", "changes", "message"),
    [
        (nope(), {}, "NoPE in every layer in llama.cpp.*--for transformers or --for vllm"),
        (qk_norm(), {}, "QK-norm in fewer than 64 layers"),
        (tuple(dataclasses.replace(kind, qk_norm=True) for kind in rnope_swa(8)), {}, "QK-norm together.*--for vllm"),
        (rope(), {"head_dim": 16}, "4 x 16 is not 32"),
    ],
    ids=["nope", "qk_norm", "qk_norm hybrid", "free heads"],
)
def test_models_that_llama_cpp_does_not_compute_are_refused(tmp_path, pattern, changes, message):
    config = model(pattern=pattern, num_layers=4, **changes)
    with pytest.raises(UserError, match=message):
        export(make_run(tmp_path / "run", config), tmp_path / "out.gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_file_that_differs_is_not_kept(run, tmp_path, monkeypatch):
    monkeypatch.setattr(verify, "_missing", lambda *_: None)
    monkeypatch.setattr(verify, "_run", lambda task: {"error": float("nan"), "version": "1", "text": None})
    for out in ("out.gguf", "out"):
        with pytest.raises(UserError, match=r"not kept: logits differ by nan of the largest from those of llama.cpp 1"):
            export(run, tmp_path / out, check=True)
    assert not list(tmp_path.iterdir())


def test_a_model_without_a_tokenizer_is_refused(run, tmp_path):
    shutil.copytree(run.path, tmp_path / "run", ignore=shutil.ignore_patterns("tokenizer"))
    with pytest.raises(UserError, match="a GGUF file holds the tokenizer, and there is none with this model"):
        export(Run(tmp_path / "run"), tmp_path / "out.gguf")
