"""Exports compute in transformers what our model computes; what cannot is refused; none is half there."""

import dataclasses
import json
import re
import signal
import subprocess
import sys
import types
import typing
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from tokenizers import processors

from rnope_jax import flops, inference, interop
from rnope_jax.cli import exchange
from rnope_jax.config import ModelConfig
from rnope_jax.errors import UserError
from rnope_jax.interop import architecture, compare, exporting, kinds, safetensors, source, verify
from rnope_jax.interop.kinds import UNBOUNDED
from rnope_jax.interop.targets import TARGETS, TargetName, check_gguf
from rnope_jax.layers import LayerKind, LogScaling, nope, qk_norm, rnope, rnope_swa, rope
from rnope_jax.model import bind
from rnope_jax.run import Run
from tests.helpers import assert_close, random_params
from tests.interop.models import make_run, model, random_ids, small_tokenizer
from tests.parity.huggingface import torch, transformers

WINDOW = 8
LENGTH = 3 * WINDOW + 9
SWA = rnope_swa(WINDOW, 50_000.0)


def export(run: Run, out: Path, **options) -> interop.Exported:
    """An export in float32 that is not verified, without a word."""
    return interop.export(run.path, out, **{"dtype": "float32", "check": False, "report": lambda _: None, **options})


def logits(config: ModelConfig, params: dict, tokens: np.ndarray) -> np.ndarray:
    return np.asarray(jax.jit(lambda params: bind(config, params)(tokens))(params))


def load(path: Path, attention: str = "eager"):
    return transformers.AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.float32, attn_implementation=attention
    ).eval()


def check(config: ModelConfig, theirs, params: dict | None = None) -> None:
    """Asserts that both kinds of attention compute our logits, past three windows."""
    tokens = random_ids(config, LENGTH)
    expected = logits(config, params or random_params(config), tokens)
    for attention in ("eager", "sdpa"):
        theirs.set_attn_implementation(attention)
        with torch.no_grad():
            actual = theirs(input_ids=torch.tensor(tokens), use_cache=False).logits.numpy()
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4, err_msg=attention)


def with_norm(pattern: tuple[LayerKind, ...]) -> tuple[LayerKind, ...]:
    return tuple(dataclasses.replace(kind, qk_norm=True) for kind in pattern)


#: The paper's variants, the other orders of layers, every group of heads, and odd sizes.
MODELS = {
    "rope": model(pattern=rope(), num_layers=2, num_kv_heads=4, vocab_size=271),
    "qk_norm": model(pattern=qk_norm(500_000.0), num_layers=2, vocab_size=301),
    "nope": model(pattern=nope(), num_layers=2, num_kv_heads=1),
    "rnope 10k": model(pattern=rnope(10_000.0), num_layers=3, logit_scale=1.0),
    "rnope 100k": model(pattern=rnope(100_000.0), num_layers=2, num_kv_heads=4),
    "rnope 2m": model(pattern=rnope(2e6, 3), num_layers=4),
    "rnope 4m": model(pattern=rnope(4e6), num_layers=2, num_heads=8, num_kv_heads=1, head_dim=4),
    "rnope_swa 3:1": model(pattern=SWA, num_layers=8, vocab_size=301),
    "a remainder": model(pattern=SWA, num_layers=6, logit_scale=0.0625),
    "1:1": model(pattern=rnope_swa(WINDOW, 1e6, 1), num_layers=3),
    "global first": model(pattern=rnope_swa(WINDOW, 50_000.0, 2, "global_first"), num_layers=5),
    "windows only": model(pattern=SWA[:1], num_layers=2),
    "mup": model(pattern=SWA, num_layers=4, mup_base_width=8),
    "heads wider than the model": model(pattern=SWA, num_layers=4, head_dim=16, vocab_size=271),
}


@pytest.mark.parametrize("name", MODELS)
def test_transformers_computes_our_logits(tmp_path, name):
    config = MODELS[name]
    made = export(make_run(tmp_path / "run", config), tmp_path / "out")
    assert made.files == ("model.safetensors",)
    check(config, load(tmp_path / "out"))


@pytest.mark.parametrize("name", ["rnope_swa 3:1", "global first", "rnope 4m"])
def test_transformers_continues_a_prompt_as_we_do(tmp_path, name):
    config, params = MODELS[name], random_params(MODELS[name])
    export(make_run(tmp_path / "run", config), tmp_path / "out")
    prompt = random_ids(config, 2 * WINDOW + 3)
    ours = np.stack([*inference.generate(config, params, prompt.tolist(), 12)], axis=1)
    theirs = load(tmp_path / "out", "sdpa").generate(
        input_ids=torch.tensor(prompt),
        attention_mask=torch.ones(prompt.shape, dtype=torch.long),
        **{"max_new_tokens": 12, "do_sample": False, "eos_token_id": None, "pad_token_id": 0},
    )
    np.testing.assert_array_equal(theirs[:, prompt.shape[1] :].numpy(), ours)


def test_rounded_weights_in_several_files(tmp_path):
    config = model(pattern=SWA, num_layers=5)
    run = make_run(tmp_path / "run", config)
    made = export(run, tmp_path / "out", dtype="bf16", shard_bytes=9000)
    *shards, index = made.files
    assert index == "model.safetensors.index.json"
    assert shards == [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
    assert len(shards) > 4
    listed = json.loads((tmp_path / "out" / index).read_text())
    stored = {}
    for shard in shards:
        found = safetensors.read_header(tmp_path / "out", shard)
        assert len(found) == 1 or sum(tensor.values().nbytes for tensor in found.values()) <= 9000
        assert all(listed["weight_map"][name] == shard for name in found)
        stored |= found
    assert listed["weight_map"].keys() == stored.keys()
    size = 2 * flops.parameters(config).total
    assert listed["metadata"]["total_size"] == made.bytes == size
    assert {tensor.dtype.name for tensor in stored.values()} == {"bfloat16"}
    keys = json.loads((tmp_path / "out" / "config.json").read_text())
    assert keys["dtype"] == keys["torch_dtype"] == "bfloat16"

    params = {name: value.astype("bfloat16").astype("float32") for name, value in random_params(config).items()}
    np.testing.assert_array_equal(
        stored["model.layers.4.mlp.gate_proj.weight"].values(),
        np.asarray(params["remainder.0.mlp.gate"]).T.astype(ml_dtypes.bfloat16),
    )
    check(config, load(tmp_path / "out"), params)


def test_the_type_of_an_export_is_that_of_the_computation_unless_another_is_asked_for(tmp_path):
    run = make_run(tmp_path / "run", model(num_layers=1, compute_dtype="bfloat16"))
    for dtype, expected in ((None, "BF16"), ("fp16", "F16"), ("float32", "F32")):
        made = export(run, tmp_path / f"out-{dtype}", dtype=dtype)
        header = (made.path / "model.safetensors").read_bytes()[:200].decode(errors="replace")
        assert f'"dtype":"{expected}"' in header
    with pytest.raises(UserError, match="dtype = 'int8': must be one of float32, bfloat16, float16"):
        export(run, tmp_path / "out", dtype="int8")


TEXTS = ("the river", "  def main(there):\n\treturn 42", "naïve 東京 <|eos|>", "")


def check_tokens(path: Path) -> None:
    theirs = transformers.AutoTokenizer.from_pretrained(path)
    own = small_tokenizer()
    for text in TEXTS:
        assert theirs(text, split_special_tokens=True).input_ids == [own.bos_id, *own.encode(text)], text
    assert theirs.decode(theirs("the river").input_ids, skip_special_tokens=True) == "the river"
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (own.bos_id, own.eos_id, 0)


def template(text: str):
    own = small_tokenizer()
    return processors.TemplateProcessing(single=text, special_tokens=[(own.bos, own.bos_id), (own.eos, own.eos_id)])


@pytest.mark.parametrize(
    ("before", "settings"),
    {
        "as trained": (None, {}),
        "a start token already": (template("<|bos|> $A"), {}),
        "an end token too": (template("<|bos|> $A <|eos|>"), {}),
        "settings that overrule": (None, {"add_bos_token": False, "add_eos_token": True}),
        "settings that name code": (None, {"auto_map": {"AutoTokenizer": ["a.B", None]}, "tokenizer_class": "B"}),
    }.values(),
)
def test_text_gets_the_tokens_of_training(tmp_path, before, settings):
    run = make_run(tmp_path / "run", model(num_layers=1))
    data = json.loads((run.tokenizer / "tokenizer.json").read_text())
    data["post_processor"] = before and json.loads(before.__getstate__())
    (run.tokenizer / "tokenizer.json").write_text(json.dumps(data))
    file = run.tokenizer / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    export(run, tmp_path / "out")
    check_tokens(tmp_path / "out")
    kept = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert kept["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert not {"auto_map", "add_bos_token", "add_eos_token"} & kept.keys()


def test_the_tokenizer_for_llama_cpps_converter_is_as_it_came(tmp_path):
    run = make_run(tmp_path / "run", model(pattern=SWA, num_layers=4))
    export(run, tmp_path / "out", target="llama.cpp")
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (run.tokenizer / "tokenizer.json").read_bytes()
    assert "tokenizer.ggml.add_bos_token=bool:true" in (tmp_path / "out" / "README.md").read_text()


def keys_of(config: ModelConfig, target: str = "transformers") -> dict:
    return architecture.architecture(config, target)


def test_config_json_says_everything_in_the_words_of_every_generation(tmp_path):
    config = model(pattern=SWA, num_layers=6, vocab_size=301, mup_base_width=16)
    export(make_run(tmp_path / "run", config), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == {
        "architectures": ["Cohere2ForCausalLM"],
        "model_type": "cohere2",
        "vocab_size": 301,
        "hidden_size": 32,
        "intermediate_size": 40,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "layer_norm_eps": 1e-5,
        "logit_scale": 0.125,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": True,
        "use_cache": True,
        "use_qk_norm": False,
        "rope_theta": 50_000.0,
        "rope_scaling": None,
        "rope_parameters": {"rope_type": "default", "rope_theta": 50_000.0},
        "rotary_pct": 1.0,
        "position_embedding_type": "rope_gptj",
        "use_embedding_sharing": True,
        "use_gated_activation": True,
        "use_parallel_block": True,
        "use_parallel_embedding": False,
        "sliding_window": WINDOW,
        "sliding_window_pattern": 4,
        "layer_types": [*["sliding_attention"] * 3, "full_attention", *["sliding_attention"] * 2],
        "order_of_interleaved_layers": "local_attn_first",
        "max_position_embeddings": 32,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "dtype": "float32",
        "torch_dtype": "float32",
    }
    generation = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}.items() <= generation.items()


def test_layers_in_no_period_have_no_number_that_an_old_reader_could_believe():
    keys = keys_of(MODELS["global first"])
    assert keys["sliding_window_pattern"] is None
    assert "order_of_interleaved_layers" not in keys
    full, local = "full_attention", "sliding_attention"
    assert keys["layer_types"] == [full, local, local, full, local]


@pytest.mark.parametrize(("name", "period"), [("rnope_swa 3:1", 4), ("1:1", 2), ("nope", 1), ("windows only", 3)])
def test_periods(name, period):
    assert keys_of(MODELS[name])["sliding_window_pattern"] == period


def test_layers_without_windows():
    assert keys_of(MODELS["rnope 2m"])["sliding_window"] == UNBOUNDED
    rope_keys = keys_of(MODELS["qk_norm"])
    assert (rope_keys["model_type"], rope_keys["use_qk_norm"]) == ("cohere", True)
    assert not {"sliding_window", "layer_types", "sliding_window_pattern"} & rope_keys.keys()


def test_for_vllm_the_window_is_one_less_and_the_card_says_so(tmp_path):
    run = make_run(tmp_path / "run", model(pattern=SWA, num_layers=4))
    for target in ("transformers", "vllm"):
        export(run, tmp_path / target, target=target)
    theirs, other = (json.loads((tmp_path / target / "config.json").read_text()) for target in ("transformers", "vllm"))
    assert other == theirs | {"sliding_window": WINDOW - 1}
    card = " ".join((tmp_path / "vllm" / "README.md").read_text().split())
    assert f"`sliding_window` is {WINDOW - 1}: vLLM from 0.29 on lets a query of this architecture see one key" in card
    assert f"makes the {WINDOW} that the model was trained with" in card
    card = " ".join((tmp_path / "transformers" / "README.md").read_text().split())
    assert f'`hf_overrides={{"sliding_window": {WINDOW - 1}}}`' in card


def test_an_export_for_vllm_may_hold_what_only_vllm_computes(tmp_path):
    config = model(pattern=with_norm(SWA), num_layers=4)
    said: list[str] = []
    made = export(make_run(tmp_path / "run", config), tmp_path / "out", target="vllm", check=True, report=said.append)
    keys = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (keys["model_type"], keys["use_qk_norm"]) == ("cohere2", True)
    stored = safetensors.read_header(tmp_path / "out", "model.safetensors")
    assert stored["model.layers.3.self_attn.k_norm.weight"].shape == (2, 8)
    assert made.error is None
    assert "not verified: transformers has no such architecture, vllm has" in said


LOG = LayerKind(10_000.0, None, log_scaling=LogScaling(512.0))
REFUSED = {
    "log scaling": (model(pattern=(LOG,)), "all", "log scaling.*What works: train without log_scaling"),
    "a window without RoPE": (model(pattern=(LayerKind(None, 8),)), "all", "window on a layer without RoPE.*rnope_swa"),
    "several bases": (
        model(pattern=(*rope(1e4), *rope(1e5))),
        "all",
        r"differ in their RoPE base \(\[10000.0, 100000.0\]\).*What works: one RoPE base",
    ),
    "several windows": (
        model(pattern=(LayerKind(1e4, 8), LayerKind(1e4, 9), *nope())),
        "all",
        r"differ in their window \(\[8, 9\]\).*What works: one window",
    ),
    "windows on a part of the RoPE layers": (
        model(pattern=(LayerKind(1e4, 8), *rope(1e4))),
        "all",
        r"differ in their window \(\[8, None\]\)",
    ),
    "QK-norm in a part": (model(pattern=(*qk_norm(), *rope())), "all", "QK-norm in some layers only.*all layers or"),
    "QK-norm and windows": (
        model(pattern=with_norm(SWA), num_layers=4),
        "transformers llama.cpp gguf",
        "QK-norm together with windows or NoPE layers.*What works: --for vllm",
    ),
    "QK-norm and RoPE in few layers": (
        model(pattern=qk_norm()),
        "llama.cpp gguf",
        "QK-norm in fewer than 64 layers in llama.cpp.*--for transformers or --for vllm",
    ),
    "one key": (model(pattern=rnope_swa(1), num_layers=4), "vllm", "window of one key in vLLM.*--for transformers"),
    "1:1": (MODELS["1:1"], "llama.cpp", "three window layers and one full layer.*What works: --gguf"),
    "global first": (MODELS["global first"], "llama.cpp", "three window layers and one full layer.*What works: --gguf"),
    "RNoPE 1:1": (MODELS["rnope 10k"], "llama.cpp", "three window layers and one full layer.*What works: --gguf"),
    "NoPE": (MODELS["nope"], "llama.cpp gguf", "NoPE in every layer in llama.cpp.*--for transformers or --for vllm"),
    "free heads": (
        MODELS["heads wider than the model"],
        "llama.cpp gguf",
        r"4 x 16 is not 32.*What works: --for transformers or --for vllm",
    ),
}


def refusal(config: ModelConfig, program: str) -> str | None:
    try:
        if program == "gguf":
            check_gguf(config, kinds.attention(config))
        else:
            architecture.architecture(config, program)
    except UserError as error:
        return str(error)
    return None


def test_a_property_of_layers_that_no_file_has_a_word_for_is_refused():
    """A field that `LayerKind` gets some day is not left out in silence."""

    @dataclasses.dataclass(frozen=True)
    class Capped(LayerKind):
        cap: float = 30.0

    model = types.SimpleNamespace(layer_kinds=(Capped(1e4, 8), *nope()))
    with pytest.raises(UserError, match="cannot export layers of the kind window 8"):
        kinds.attention(model)


def test_the_command_offers_every_target():
    offered = typing.get_type_hints(exchange.export)["target"]
    assert set(typing.get_args(offered)) == set(TARGETS) == set(typing.get_args(TargetName))


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_program_cannot_compute_is_refused_with_what_works(name):
    config, programs, message = REFUSED[name]
    refusals = {program: refusal(config, program) for program in ("transformers", "vllm", "llama.cpp", "gguf")}
    expected = set(refusals) if programs == "all" else set(programs.split())
    assert {program for program, found in refusals.items() if found} == expected
    for program in expected:
        assert re.search(message, refusals[program])


@pytest.fixture
def in_process(monkeypatch):
    """Verification without a process of its own: PyTorch is loaded here already."""

    def run(task: dict) -> dict:
        path = Path(task["source"]).parent
        (path / "ask.json").write_text(json.dumps(task))
        compare.main(path / "ask.json", path / "answer.json")
        return json.loads((path / "answer.json").read_text())

    monkeypatch.setattr(verify, "_run", run)


def lie(monkeypatch, **keys) -> None:
    """Lets exports say something else in config.json."""
    true = exporting.architecture
    monkeypatch.setattr(exporting, "architecture", lambda model, target: true(model, target) | keys)


@pytest.mark.parametrize("target", ["transformers", "vllm", "llama.cpp"])
def test_verification_lets_a_true_export_pass(tmp_path, in_process, target):
    run = make_run(tmp_path / "run", model(pattern=SWA, num_layers=4))
    said: list[str] = []
    made = export(run, tmp_path / "out", target=target, dtype="bfloat16", check=True, report=said.append)
    assert made.error < 1e-5
    assert said[-2:] == [
        f"verifying: {2 * WINDOW + 64} tokens through transformers",
        f"verified: logits equal those of transformers {transformers.__version__} to {made.error:.1e} of the largest",
    ]


@pytest.mark.parametrize("target", ["transformers", "vllm"])
@pytest.mark.parametrize(
    "keys",
    [
        {"rope_theta": 1e4, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
        {"sliding_window": WINDOW + 1},
        {"layer_types": ["full_attention", *["sliding_attention"] * 3]},
        {"logit_scale": 0.251},
    ],
    ids=lambda keys: next(iter(keys)),
)
def test_verification_keeps_nothing_of_a_wrong_export(tmp_path, in_process, monkeypatch, target, keys):
    run = make_run(tmp_path / "run", model(pattern=SWA, num_layers=4))
    lie(monkeypatch, **keys)
    with pytest.raises(UserError, match=r"the export was not kept: logits differ by .* from those of transformers"):
        export(run, tmp_path / "out", target=target, check=True)
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]


def test_verification_compares_tokens(tmp_path, in_process, monkeypatch):
    run = make_run(tmp_path / "run", model(num_layers=1))
    true = exporting.copy_tokenizer
    monkeypatch.setattr(exporting, "copy_tokenizer", lambda *places, add_bos: true(*places, add_bos=False))
    with pytest.raises(UserError, match=r"not kept: transformers .* gives other tokens for 'def main"):
        export(run, tmp_path / "out", check=True)
    assert not (tmp_path / "out").exists()


def test_verification_in_a_process_of_its_own(tmp_path, monkeypatch):
    run = make_run(tmp_path / "run", model(pattern=SWA, num_layers=4))
    lie(monkeypatch, sliding_window=WINDOW - 1)
    with pytest.raises(UserError, match="the export was not kept: logits differ"):
        export(run, tmp_path / "out", check=True)
    with pytest.raises(UserError, match=r"transformers cannot load or run it \(KeyError: 'source'\)"):
        verify._run({"program": "transformers"})
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_without_pytorch_the_export_says_that_it_is_not_verified(tmp_path, monkeypatch):
    monkeypatch.setattr(verify.importlib.util, "find_spec", lambda name: None)
    said: list[str] = []
    made = export(make_run(tmp_path / "run", model(num_layers=1)), tmp_path / "out", check=True, report=said.append)
    assert said[-1] == "not verified: torch is not installed (pip install 'rnope-jax[interop]')"
    assert made.error is None
    assert (tmp_path / "out" / "config.json").exists()


@pytest.mark.parametrize("stage", ["copy_tokenizer", "model_card", "verify"])
def test_an_error_leaves_nothing(tmp_path, monkeypatch, stage):
    run = make_run(tmp_path / "run", model(num_layers=1))

    def fail(*args, **options):
        raise RuntimeError(stage)

    with monkeypatch.context() as patch:
        patch.setattr(exporting, stage, fail)
        with pytest.raises(RuntimeError, match=stage):
            export(run, tmp_path / "out", check=True)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    export(run, tmp_path / "out")


KILLED = """
import os, signal, sys
from pathlib import Path
from rnope_jax.interop import exporting, safetensors
def die(*args): os.kill(os.getpid(), signal.SIGKILL)
stage, run, out = sys.argv[1:]
if stage == "weights":
    safetensors.os.fsync = die
else:
    exporting.verify = die
exporting.export(Path(run), Path(out), dtype="float32", shard_bytes=9000)
"""


def test_after_a_kill_the_same_command_succeeds(tmp_path):
    run, out = make_run(tmp_path / "run", model(num_layers=2)), tmp_path / "out"
    for stage in ("weights", "the end"):
        done = subprocess.run([sys.executable, "-c", KILLED, stage, str(run.path), str(out)], timeout=120)
        assert done.returncode == -signal.SIGKILL
        assert sorted(path.name for path in tmp_path.iterdir()) == [".out.partial", "run"]
    assert (tmp_path / ".out.partial" / "config.json").exists()  # it had come that far
    export(run, out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "run"]
    assert len(list(out.glob("*.safetensors*"))) == 1


@pytest.mark.parametrize("kind", ["directory", "file", "dangling link"])
def test_what_is_there_is_not_overwritten(tmp_path, kind):
    run, out = make_run(tmp_path / "run", model(num_layers=1)), tmp_path / "out"
    match kind:
        case "directory":
            out.mkdir()
        case "file":
            out.write_text("mine")
        case _:
            out.symlink_to(tmp_path / "nowhere")
    for write in (interop.export, interop.export_gguf):
        with pytest.raises(UserError, match=r"out exists; nothing is overwritten: choose another name or remove it"):
            write(run.path, out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "run"]


def test_a_disk_that_is_too_small_is_seen_first(tmp_path, monkeypatch):
    run = make_run(tmp_path / "run", model(num_layers=1))
    monkeypatch.setattr(exporting.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(UserError, match="GB are needed and 1e-06 GB are free there"):
        export(run, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@dataclasses.dataclass
class Watched:
    """Weights that remember the sizes of what was read."""

    weights: object
    sizes: list[int] = dataclasses.field(default_factory=list)

    def dtype(self, name, layer=None):
        return self.weights.dtype(name, layer)

    def read(self, name, index=()):
        values = self.weights.read(name, index)
        self.sizes.append(values.nbytes)
        return values


def test_weights_are_read_piece_by_piece(tmp_path, monkeypatch):
    config = model(pattern=SWA, num_layers=8)
    run = make_run(tmp_path / "run", config)
    export(run, tmp_path / "whole")
    limit = 1024
    opened = source.open_source(run.path)
    watched = Watched(opened.weights)
    monkeypatch.setattr(source, "_PIECE", limit)
    monkeypatch.setattr(exporting, "open_source", lambda *_, **__: dataclasses.replace(opened, weights=watched))
    export(run, tmp_path / "pieces")
    assert max(watched.sizes) <= limit  # the embedding has 34 times as much
    assert sum(watched.sizes) == 4 * flops.parameters(config).total  # and nothing is read twice
    whole, pieces = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "pieces"))
    assert whole == pieces


def test_the_largest_difference_allowed_is_one_that_a_wrong_window_exceeds():
    config = model(pattern=SWA, num_layers=4)
    wrong = dataclasses.replace(config, pattern=rnope_swa(WINDOW + 1, 50_000.0))
    tokens, params = random_ids(config, LENGTH), random_params(config)
    right, other = (logits(each, params, tokens) for each in (config, wrong))
    assert_close(other[:, :WINDOW], right[:, :WINDOW], 1e-5)
    assert np.abs(other - right).max() > 100 * verify.TOLERANCE * np.abs(right).max()
