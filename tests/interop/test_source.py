"""Opening a run or a directory of Hugging Face files, whatever state it is in."""

import json
import shutil

import numpy as np
import pytest

from rnope_jax import interop
from rnope_jax.errors import UserError
from rnope_jax.inference import load
from rnope_jax.interop import open_source
from rnope_jax.run import Run
from tests.interop.models import VOCAB, make_run, model, small_tokenizer


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Only to be read."""
    return make_run(tmp_path_factory.mktemp("runs") / "run", model())


@pytest.fixture(scope="module")
def files(run, tmp_path_factory):
    """An export of the run. Only to be read."""
    out = tmp_path_factory.mktemp("exports") / "files"
    interop.export(run.path, out, dtype="float32", check=False, report=lambda line: None)
    return out


def import_(files, run) -> Run:
    interop.import_directory(files, run, report=lambda line: None)
    return Run(run)


def change_config(directory, **changes) -> None:
    file = directory / "config.json"
    data = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({name: value for name, value in data.items() if value != "absent"}))


def test_a_run_and_its_export_are_the_same_model(run, files):
    mine, theirs = open_source(run.path), open_source(files)
    assert mine.model.layer_kinds == theirs.model.layer_kinds
    assert (mine.step, theirs.step) == (3, 0)
    assert mine.context == theirs.context == 32
    for name in ("embedding", "periods.0.mlp.gate", "remainder.0.attention.query"):
        np.testing.assert_array_equal(mine.weights.read(name), theirs.weights.read(name))


@pytest.mark.parametrize("make", [lambda p: p.write_text("x"), lambda p: p.mkdir(), lambda p: None])
def test_what_is_neither_is_refused(tmp_path, make):
    path = tmp_path / "thing"
    make(path)
    with pytest.raises(UserError, match=r"thing.* (is not a directory|does not exist|no config\.json in it)"):
        open_source(path)


BROKEN = {
    "cut short": (b'{"name": "x', "config.json: not valid JSON"),
    "empty": (b"", "config.json: not valid JSON"),
    "a list": (b"[]", "config.json: not a JSON object"),
    "not UTF-8": (b'{"name": "\xff"}', "config.json: not valid JSON"),
    "deep": (b'{"a":' + b"[" * 100_000, "config.json: JSON nested too deeply"),
    "another program's": (b'{"a": 1}', r"config\.a: there is no such field"),
    "no type": (b'{"architectures": ["LlamaForCausalLM"]}', "neither model.safetensors nor"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_configuration_is_named(tmp_path, case):
    content, pattern = BROKEN[case]
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(UserError, match=pattern) as caught:
        open_source(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b'{"name": "\xff"}', b'{"a":' + b"[" * 100_000])
def test_a_run_whose_configuration_is_no_text_is_named(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(UserError, match=r"config\.json"):
        _ = Run(tmp_path).config


@pytest.mark.parametrize("value", [0, -1, "8192", True, 1.5, 2**31, [8192], None])
def test_a_context_that_is_no_length_is_refused(files, tmp_path, value):
    copy = shutil.copytree(files, tmp_path / "files")
    change_config(copy, max_position_embeddings=value)
    with pytest.raises(UserError, match=r"config\.json: max_position_embeddings = .*: must be a whole number from 1"):
        open_source(copy)


def test_a_context_that_is_not_given_is_that_of_transformers(files, tmp_path):
    copy = shutil.copytree(files, tmp_path / "files")
    change_config(copy, max_position_embeddings="absent")
    assert open_source(copy).context == 8192
    imported = import_(copy, tmp_path / "run")
    assert imported.config.stages[0].sequence_length == 8192
    assert open_source(imported.path).context == 8192


def test_steps_that_are_not_there(run, files, tmp_path):
    with pytest.raises(UserError, match=r"step = 9: .* holds checkpoints of the steps \[3\]"):
        open_source(run.path, step=9)
    with pytest.raises(UserError, match=r"step = 0: .* holds checkpoints of the steps \[3\]"):
        open_source(run.path, step=0)
    with pytest.raises(UserError, match=r"step = 3: .* Hugging Face files, which have no steps"):
        open_source(files, step=3)
    imported = import_(files, tmp_path / "run")
    with pytest.raises(UserError, match="holds no checkpoint yet"):
        open_source(imported.path, step=3)


def test_imported_weights_until_there_is_a_checkpoint_and_on_demand(run, files, tmp_path):
    imported = import_(files, tmp_path / "run")
    assert open_source(imported.path).step == 0
    (imported.path / "checkpoints" / "5.orbax-checkpoint-tmp").mkdir(parents=True)
    assert open_source(imported.path).step == 0
    shutil.copytree(run.checkpoints / "3", imported.checkpoints / "3")
    assert open_source(imported.path).step == 3
    asked = open_source(imported.path, step=0)
    assert (asked.step, asked.published["model_type"]) == (0, "cohere2")
    # A trained run does not need them any more.
    (imported.imported / "model.safetensors").unlink()
    assert open_source(imported.path).step == 3
    with pytest.raises(UserError, match=r"neither model\.safetensors nor"):
        open_source(imported.path, step=0)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_checkpoint_that_goes_away_meanwhile_is_no_zeros(run, tmp_path):
    """A run that is being trained deletes its old checkpoints."""
    copy = shutil.copytree(run.path, tmp_path / "run")
    weights = open_source(copy).weights
    weights.read("embedding")
    weights.shape("norm.scale")  # opened, not read
    shutil.rmtree(copy / "checkpoints" / "3")
    with pytest.raises(UserError, match=r"checkpoint 3 in .* cannot be read: "):
        weights.read("norm.scale")
    with pytest.raises(UserError, match=r"checkpoint 3 in .* cannot be read: "):
        weights.read("periods.0.mlp.gate")


def test_a_damaged_checkpoint_leaves_no_export(run, tmp_path):
    copy = shutil.copytree(run.path, tmp_path / "run")
    for file in (copy / "checkpoints" / "3" / "state").rglob("d/*"):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(UserError, match=r"none of the checkpoints \[3\] in .* can be read \(checkpoint 3: ") as caught:
        interop.export(copy, tmp_path / "out", check=False, report=lambda line: None)
    assert "\n" not in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} == {"run"}


def test_a_tokenizer_that_is_larger_than_the_model_is_refused(tmp_path):
    """An embedding that is looked up past its end gives its last row, without a word."""
    small = make_run(tmp_path / "run", model(vocab_size=VOCAB - 5))
    assert small_tokenizer().vocab_size == VOCAB
    with pytest.raises(UserError, match=rf"tokenizer: has {VOCAB} tokens, the model an embedding of {VOCAB - 5}"):
        load(small.path)
