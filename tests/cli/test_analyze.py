"""`rnope analyze`."""

import importlib
import json
import re
from dataclasses import replace

import pytest

from rnope_jax.cli.main import main
from rnope_jax.interop import export
from rnope_jax.layers import rnope, rnope_swa
from tests.evaluation.analysis.texts import TEXT
from tests.helpers import tiny_config
from tests.interop.models import make_run, model


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("analyze")
    (root / "text.txt").write_text(TEXT)
    patterns = {"windows": rnope_swa(5, 100.0, ratio=1), "whole": rnope(100.0)}
    return root, [make_run(root / name, model(pattern=pattern, num_layers=2)) for name, pattern in patterns.items()]


def call(capsys, *arguments: object, code: int | None = 0):
    with pytest.raises(SystemExit) as ended:
        main(["analyze", *map(str, arguments)])
    assert ended.value.code == code
    return capsys.readouterr()


def test_models_are_laid_side_by_side_and_everything_is_kept(runs, capsys):
    root, (first, second) = runs
    options = ("--haystack", root / "text.txt", "--lengths", 260, "--samples", 1, "--per-head")
    said = call(capsys, first.path, second.path, *options)
    for title in ("as Table 3", "as Table 4", "as Table 9", "Heads that attend most"):
        assert title in said.out
    kept = json.loads((first.path / "evaluations" / "step-3" / "attention.json").read_text())
    assert [found["model"] for found in kept["models"]] == ["windows", "whole"]
    assert kept["settings"]["haystack"].endswith("text.txt")
    for found in kept["models"]:
        (at,) = found["findings"]
        for average in at["groups"].values():
            assert sum(average["mass"].values()) == pytest.approx(1, abs=1e-5)
    drawn = sorted(path.name for path in (first.path / "figures").iterdir())
    assert drawn == [f"attention-{name}.png" for name in ("by-kind", "by-length", "heads", "lengths-together")]
    assert not (second.path / "evaluations").exists()


def test_an_exported_model_attends_as_its_run_does(runs, capsys):
    root, (run, _) = runs
    exported, out = root / "exported", root / "elsewhere"
    export(run.path, exported, dtype="float32", check=False)
    options = ("--haystack", root / "text.txt", "--lengths", 260, "--samples", 1, "--dtype", "float32")
    call(capsys, run.path, exported, *options, "--out", out)
    ours, theirs = json.loads((out / "attention.json").read_text())["models"]
    assert (ours["model"], theirs["model"]) == ("windows", "exported")
    for group, average in ours["findings"][0]["groups"].items():
        assert theirs["findings"][0]["groups"][group]["mass"] == pytest.approx(average["mass"], abs=1e-6)
    assert not (exported / "evaluations").exists()


def test_lengths_that_nobody_asked_for_are_those_that_can_be(runs, capsys, tmp_path):
    stage = replace(tiny_config().stages[0], sequence_length=100)
    run = make_run(tmp_path / "run", model(pattern=rnope(100.0), num_layers=2), stages=(stage,))
    said = call(capsys, run.path, "--haystack", runs[0] / "text.txt", "--samples", 1)
    found = json.loads((run.path / "evaluations" / "step-3" / "attention.json").read_text())["models"][0]["findings"]
    assert [at["length"] for at in found] == [400]
    for length in (100, 200):
        assert f"{length} tokens are left out: length {length}: fact and question take" in said.err


def test_an_interrupted_analysis_goes_on_with_the_next_text(runs, capsys, tmp_path, monkeypatch):
    root, models = runs
    options = ("--haystack", root / "text.txt", "--lengths", 260, "--samples", 3)
    arguments = [*(run.path for run in models), *options, "--out", tmp_path / "out"]
    measure = importlib.import_module("rnope_jax.evaluation.analysis.measure")  # beside it is a function of this name
    read, look = [], measure._statistics

    def counted(*given):
        if len(read) == 4:  # the second text of the second model
            raise KeyboardInterrupt
        read.append(given)
        return look(*given)

    monkeypatch.setattr(measure, "_statistics", counted)
    call(capsys, *arguments, code=130)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["attention.partial"]
    read[:] = [None] * 10  # what comes now is counted, and not stopped
    call(capsys, *arguments)
    assert len(read) == 12
    monkeypatch.undo()
    call(capsys, *arguments[:-1], tmp_path / "whole")
    names = ["attention.json", "figures"]
    for directory in ("out", "whole"):
        assert sorted(path.name for path in (tmp_path / directory).iterdir()) == names
    assert (tmp_path / "out" / names[0]).read_bytes() == (tmp_path / "whole" / names[0]).read_bytes()


def test_mistakes_are_told_before_anything_is_read_or_written(runs, capsys):
    root, (run, _) = runs
    file = root / "text.txt"
    wrong = {
        (): "there is no model",
        (root / "nothing",): "does not exist; give a run",
        (run.path, "--lengths", 20): "length 20: .* give at least",
        (run.path, "--depth", 101): "between 0 and 100 percent",
        (run.path, "--samples", 0): "samples = 0: must be at least 1",
        (run.path, "--haystack", root / "nothing.txt"): r"haystack: .* does not exist",
        (run.path, "--lengths", 300, "--out", file / "out"): "is not a directory",
    }
    before = file.read_bytes()
    for arguments, message in wrong.items():
        said = call(capsys, *arguments, code=2)
        assert said.out == ""
        assert said.err.startswith("error: ")
        assert re.search(message, said.err), said.err
    assert file.read_bytes() == before
    assert not (root / "nothing").exists()
