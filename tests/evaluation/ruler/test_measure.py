"""Scores of a model: right ones for right answers, and the same ones after an interruption."""

import json

import pytest

from rnope_jax.errors import UserError
from rnope_jax.evaluation import needle
from rnope_jax.evaluation.ruler import TASKS, Generator, material, measure
from rnope_jax.evaluation.ruler.measure import Cell, Ruler
from rnope_jax.inference import load
from tests.evaluation.reading import english, solve
from tests.interop.models import make_run, model

MATERIAL = material()
NAMES = ("niah_single_1", "niah_multivalue", "vt", "qa_1")


@pytest.fixture(scope="module")
def text_model(tmp_path_factory):
    """A random model with a tokenizer of English."""
    run = make_run(tmp_path_factory.mktemp("measure") / "run", model(num_layers=2, vocab_size=2500))
    for file in run.tokenizer.iterdir():
        file.unlink()
    run.tokenizer.rmdir()
    english().save(run.tokenizer)
    return load(run.path)


def generators(text_model, names=NAMES, lengths=(400, 700), seed=0):
    return [
        Generator(TASKS[name], length, text_model.tokenizer, MATERIAL, seed) for length in lengths for name in names
    ]


def run(text_model, directory, wanted=None, samples=3):
    wanted = wanted or generators(text_model)
    return measure.measure(text_model, wanted, samples, directory, batch_tokens=4096, report=lambda _: None)


@pytest.fixture
def answering(monkeypatch):
    """Lets a function of a prompt answer in the place of the model."""

    def install(answer):
        def continuations(model, prompts, tokens, *, batch_tokens, done=()):
            for number, prompt in enumerate(prompts):
                if number not in done:
                    yield {number: answer(model.tokenizer.decode(prompt))}

        monkeypatch.setattr(measure, "continuations", continuations)

    return install


def reader(prompt) -> str:
    """Answers what it is asked."""
    kinds = {"vt": "VAR", "qa_1": "Document"}
    return " ".join(solve(next((task for task, word in kinds.items() if word in prompt), "niah"), prompt))


def test_a_model_that_can_read_gets_everything(text_model, answering, tmp_path):
    answering(reader)
    cells = run(text_model, tmp_path)
    assert [(cell.task, cell.length, cell.score, cell.error) for cell in cells] == [
        (name, length, 100, 0) for length in (400, 700) for name in NAMES
    ]


def test_half_an_answer_is_half_of_the_score_but_for_questions(text_model, answering, tmp_path):
    answering(lambda prompt: " ".join(reader(prompt).split()[:2]))
    scores = {cell.task: cell.score for cell in run(text_model, tmp_path, generators(text_model, lengths=(1024,)))}
    # A name of a founder has two words, so the first two are the whole answer to qa_1.
    assert scores == pytest.approx({"niah_single_1": 100, "niah_multivalue": 50, "vt": 40, "qa_1": 100})
    answering(lambda prompt: "")
    assert {cell.score for cell in run(text_model, tmp_path / "empty")} == {0}


def test_files_have_what_nvidias_scoring_reads(text_model, answering, tmp_path):
    answering(reader)
    run(text_model, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "400" / "vt.jsonl").read_text().splitlines()]
    assert [line["index"] for line in lines] == [0, 1, 2]
    for line in lines:
        assert {"index", "input", "outputs", "length", "pred", "others"} <= line.keys()
        assert isinstance(line["others"], dict)
        assert line["input"] + line["answer_prefix"] == line["input"] + line["answer_prefix"].rstrip() + " "
        assert set(line["outputs"]) <= set(line["pred"].split())


def test_an_evaluation_that_was_killed_goes_on_to_the_same_files(text_model, tmp_path, monkeypatch):
    def go(directory):
        wanted = generators(text_model, ["niah_single_1", "vt"], [400])
        return measure.measure(text_model, wanted, 4, directory, batch_tokens=1000, report=lambda _: None)

    whole = go(tmp_path / "whole")
    real, made = measure.continuations, []

    def killed(*args, **options):
        for batch in real(*args, **options):
            yield batch
            made.append(batch)
            if len(made) == 2:
                raise KeyboardInterrupt

    monkeypatch.setattr(measure, "continuations", killed)
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "killed")
    kept = sum(len(file.read_text().splitlines()) for file in (tmp_path / "killed").rglob("*.jsonl"))
    assert kept == len(made[0]) + len(made[1]) < 8
    torn = max((tmp_path / "killed").rglob("*.jsonl"), key=lambda file: file.stat().st_size)
    torn.write_bytes(torn.read_bytes()[:-40])
    made = []

    def watched(*args, **options):
        for batch in real(*args, **options):
            made.append(batch)
            yield batch

    monkeypatch.setattr(measure, "continuations", watched)
    assert go(tmp_path / "killed") == whole
    assert sum(map(len, made)) < 8
    for file in (tmp_path / "whole").rglob("*.jsonl"):
        assert file.read_bytes() == (tmp_path / "killed" / file.relative_to(tmp_path / "whole")).read_bytes()
    made.clear()
    assert go(tmp_path / "killed") == whole
    assert not made


def test_more_samples_are_added_to_those_there_are(text_model, answering, tmp_path):
    answering(reader)
    run(text_model, tmp_path, samples=2)
    asked = []
    answering(lambda prompt: asked.append(prompt) or reader(prompt))
    run(text_model, tmp_path, samples=5)
    assert len(asked) == 3 * 2 * len(NAMES)
    run(text_model, tmp_path, samples=3)  # fewer lose nothing
    assert len((tmp_path / "700" / "vt.jsonl").read_text().splitlines()) == 5


def test_answers_to_other_samples_are_not_taken(text_model, answering, tmp_path):
    answering(reader)
    run(text_model, tmp_path)
    with pytest.raises(UserError, match=r"niah_single_1.jsonl: holds the answer to another sample 0"):
        run(text_model, tmp_path, generators(text_model, seed=1))


def test_means_are_over_whole_groups():
    cells = tuple(Cell(name, 512, float(number), 0.0, 4, True) for number, name in enumerate(TASKS))
    whole = Ruler(cells)
    assert whole.mean("retrieval", 512) == pytest.approx(3.5)
    assert whole.mean("question answering", 512) == pytest.approx(11.5)
    assert whole.mean("all", 512) == pytest.approx(6.0)
    part = Ruler(cells[1:])
    assert part.groups == ["tracing", "aggregation", "question answering"]
    assert part.mean("retrieval", 512) is None
    assert measure.names(["retrieval", "vt", "niah_single_1"]) == [*TASKS][:9]
    with pytest.raises(UserError, match="--ruler niah: there is no such task; there are niah_single_1"):
        measure.names(["niah"])


def test_needles_at_every_depth_and_length(text_model, answering, tmp_path):
    depths = (0, 25, 100)
    wanted = needle.generators(text_model, [400, 800], depths, MATERIAL, 0)

    def near(prompt) -> str:
        """Finds a needle in the first half of the shorter haystack only."""
        place = prompt.index("One of the special") / len(prompt)
        return reader(prompt) if place < 0.5 and len(prompt) < 1800 else "no"

    answering(near)
    found = needle.found(run(text_model, tmp_path, wanted, samples=2), depths)
    assert found.lengths == (400, 800)
    assert found.scores == ((100, 0), (100, 0), (0, 0))
    assert found.to_dict()["mean"] == pytest.approx(100 / 3)
    for generator in wanted:
        for sample in generator.samples(2):
            text = sample.input.split("\n", 1)[1].rsplit("\nWhat", 1)[0]
            place = text.index("One of the special") / (len(text) - 60)
            assert place == pytest.approx(generator.variant.depth / 100, abs=0.12)
            assert 0.99 * generator.length <= sample.length <= generator.length
