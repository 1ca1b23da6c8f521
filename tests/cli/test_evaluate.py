"""`rnope evaluate`."""

import json
import shutil
from dataclasses import replace

import pytest

from rnope_jax import interop
from rnope_jax.cli.main import main
from rnope_jax.data import tokenizer
from rnope_jax.layers import rnope_swa
from tests.evaluation.reading import english
from tests.helpers import tiny_config
from tests.interop.models import make_run, model

#: Where the texts of a run are long enough for every part of an evaluation.
OPTIONS = ("--lengths", "256", "300", "--samples", "2", "--depths", "0", "100", "--text")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A random model with a tokenizer of English."""
    config = model(pattern=rnope_swa(5, 100.0), num_layers=2, vocab_size=2500)
    made = make_run(tmp_path_factory.mktemp("evaluate") / "run", config)
    shutil.rmtree(made.tokenizer)
    english().save(made.tokenizer)
    return made.path


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    file = tmp_path_factory.mktemp("evaluate") / "text.txt"
    file.write_text("The river goes round the stone, and the stone lets it. " * 80)
    return file


def call(capsys, *arguments, code: int | None = 0):
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", *map(str, arguments)])
    assert ended.value.code == code
    return capsys.readouterr()


def evaluate(capsys, directory, text, *more):
    options = ("--loss-by-position", "--needle", "--ruler", "niah_single_1", "vt")
    return call(capsys, directory, *options, *OPTIONS, text, *more)


def test_everything_is_measured_written_and_shown(run, text, capsys, tmp_path):
    shown = evaluate(capsys, run, text).out
    out = run / "evaluations" / "step-3"
    for title in ("Loss, nats per token", "Needles found, %", "RULER", f"done: {out}"):
        assert title in shown
    for name in ("loss_by_position", "needle", "ruler"):
        assert (run / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        data = json.loads((out / f"{name}.json").read_text())
        assert data["model"]["step"] == 3
        assert data["settings"]["lengths"] == [256, 300]
    data = {name: json.loads((out / f"{name}.json").read_text()) for name in ("loss_by_position", "needle", "ruler")}
    assert [entry["length"] for entry in data["loss_by_position"]["by_length"]] == [256, 300]
    assert len(data["needle"]["scores"]) == len(data["needle"]["scores"][0]) == 2
    cells = [(cell["task"], cell["length"], cell["samples"]) for cell in data["ruler"]["cells"]]
    assert cells == [(task, length, 2) for length in (256, 300) for task in ("niah_single_1", "vt")]
    # The same again takes all answers from the files, elsewhere it comes to the same.
    files = {file: file.read_bytes() for file in out.rglob("*.json*")}
    evaluate(capsys, run, text)
    assert {file: file.read_bytes() for file in out.rglob("*.json*")} == files
    evaluate(capsys, run, text, "--out", tmp_path / "other")
    for file, content in files.items():
        assert (tmp_path / "other" / file.relative_to(out)).read_bytes() == content
    assert (tmp_path / "other" / "figures" / "needle.png").exists()
    assert not list(out.rglob("*.partial"))
    # Another model's results are not mixed with these.
    exported = tmp_path / "exported"
    interop.export(run, exported, dtype="float32", check=False, report=lambda _: None)
    refused = call(capsys, exported, "--ruler", "vt", *OPTIONS[:5], "--out", tmp_path / "other", code=2)
    assert "holds results of another model" in refused.err
    evaluate(capsys, exported, text)
    own = {name: json.loads((exported / "evaluations" / "step-0" / f"{name}.json").read_text()) for name in data}
    assert own["ruler"]["cells"] == data["ruler"]["cells"]
    losses = [[entry["loss"] for entry in found["loss_by_position"]["by_position"]] for found in (own, data)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-3)


def test_lengths_that_nobody_asked_for_are_those_that_can_be(tmp_path, capsys):
    config = model(pattern=rnope_swa(5, 100.0), num_layers=2, vocab_size=2500)
    stage = replace(tiny_config().stages[0], sequence_length=256)
    run = make_run(tmp_path / "run", config, stages=(stage,))
    text = tmp_path / "text.txt"
    text.write_text("The river goes round the stone, and the stone lets it. " * 15)
    said = call(capsys, run.path, "--loss-by-position", "--samples", "1", "--text", text).out
    tokens = len(tokenizer.load(run.tokenizer).encode(text.read_text()))
    assert 256 < tokens < 2048
    for length in (256, 512, 1024, 2048):
        assert (f"loss_by_position: {length:,} tokens are left out" in said) is (length > tokens)
    measured = json.loads((run.path / "evaluations" / "step-3" / "loss_by_position.json").read_text())
    assert measured["settings"]["lengths"] == [length for length in (256, 512, 1024) if length <= tokens]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ruler", "niah"], "--ruler niah: there is no such task; there are niah_single_1"),
        (["--ruler", "--lengths", "60"], "length = 60: the smallest sample of niah_single_1 takes up to"),
        (["--needle", "--lengths", "0"], "--lengths 0: must be at least 1 token"),
        (["--needle", "--depths", "101"], "--depths 101: must be between 0 and 100 percent"),
        (["--needle", "--samples", "0"], "--samples 0: must be at least 1"),
        (["--batch-tokens", "-1"], "--batch-tokens -1: must be at least 1"),
        (["--needle", "--haystack", "absent"], "haystack: absent does not exist"),
        (["--ruler", "qa_1", "--squad", "absent"], "absent: cannot be read"),
        (["--loss-by-position", "--text", "absent"], "--text: absent does not exist"),
        (
            ["--loss-by-position", "--text", "TEXT", "--lengths", "99999"],
            "--lengths 99999: all texts together have only",
        ),
        (["--limit", "3"], "--limit belongs to --lm-eval"),
        (["--lm-eval", "arc_easy", "--include-path", "absent"], "--include-path absent: is not a directory"),
    ],
)
def test_mistakes_are_told_before_anything_is_computed_or_written(run, text, tmp_path, capsys, options, message):
    options = [str(text) if option == "TEXT" else option for option in options]
    out = tmp_path / "out"
    assert message in call(capsys, run, *options, "--out", out, code=2).err
    assert not out.exists()


def test_a_directory_without_a_model_is_refused(tmp_path, capsys):
    assert "neither a run nor" in call(capsys, tmp_path, "--ruler", code=2).err
    assert not list(tmp_path.iterdir())
