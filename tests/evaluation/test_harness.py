"""Our models in lm-evaluation-harness, with tasks and data of local files."""

import functools
import json
import os
import warnings

import pytest
from lm_eval.api.instance import Instance
from lm_eval.tasks import TaskManager

from rnope_jax.errors import UserError
from rnope_jax.evaluation import harness
from rnope_jax.inference import load
from rnope_jax.layers import rnope_swa
from tests.interop.models import make_run, model

CHOICE = """
task: rivers
dataset_path: json
dataset_kwargs: {data_files: {test: DATA/choice.json}, cache_dir: DATA/cache}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
doc_to_choice: "{{choices}}"
num_fewshot: 1
fewshot_split: test
metric_list: [{metric: acc}, {metric: acc_norm}]
"""

PERPLEXITY = """
task: prose
dataset_path: json
dataset_kwargs: {data_files: {test: DATA/prose.json}, cache_dir: DATA/cache}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: word_perplexity}, {metric: bits_per_byte}]
"""

GENERATION = """
task: sums
dataset_path: json
dataset_kwargs: {data_files: {test: DATA/sums.json}, cache_dir: DATA/cache}
test_split: test
output_type: generate_until
doc_to_text: "{{text}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["t", "\\n\\n"], do_sample: false, max_gen_toks: 24}
metric_list: [{metric: exact_match}]
"""


#: Scores by running what the model has written, as far as the harness knows.
UNSAFE = f"{PERPLEXITY.replace('prose', 'risky').replace('risky.json', 'prose.json')}unsafe_code: true\n"


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """A directory of tasks with their data, as a user would write them."""
    directory = tmp_path_factory.mktemp("tasks")
    words = ["the river", "a stone", "def main(", "return 42", "there", " \n there"]
    choice = [
        {
            "question": f"{words[i]} {words[i - 1]}" * (1 + 3 * (i % 3)),
            "choices": [words[i - 2], words[i - 3], "x"],
            "answer": i % 3,
        }
        for i in range(6)
    ]
    prose = [{"text": "the river and the stone\n" * n + "def main" * (n % 3)} for n in (1, 2, 9)]
    sums = [{"text": "return 42\n" * n + "the", "answer": "42"} for n in (1, 3, 20, 2)]
    for name, rows in (("choice", choice), ("prose", prose), ("sums", sums)):
        (directory / f"{name}.json").write_text(json.dumps(rows))
    for name, text in (("choice", CHOICE), ("prose", PERPLEXITY), ("sums", GENERATION), ("risky", UNSAFE)):
        (directory / f"{name}.yaml").write_text(text.replace("DATA", str(directory)))
    return directory


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    config = model(pattern=rnope_swa(5, 100.0), num_layers=4)
    return make_run(tmp_path_factory.mktemp("lm_eval") / "run", config)


@pytest.fixture
def only_ours(monkeypatch):
    """The index of the harness's own tasks takes long to build."""
    monkeypatch.setattr(harness, "TaskManager", functools.partial(TaskManager, include_defaults=False))


def test_an_evaluation_goes_on_with_the_answers_it_has(run, tasks, only_ours, monkeypatch, tmp_path, capsys):
    text_model = load(run.path)
    names = ["prose", "sums"]
    manager = harness.task_manager(run.path, names, tasks)

    def go(out):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return harness.evaluate(text_model, names, manager, out=out, limit=3, batch_tokens=300)

    real, made = harness.continuations, []

    def killed(*args, **options):
        for batch in real(*args, **options):
            made.append(batch)
            yield batch
            raise KeyboardInterrupt

    monkeypatch.setattr(harness, "continuations", killed)
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path)
    monkeypatch.setattr(harness, "likelihoods", None)  # all of these are known already

    def watched(model, prompts, *args, **options):
        assert len(prompts) == 3 - len(made[0])
        yield from real(model, prompts, *args, **options)

    monkeypatch.setattr(harness, "continuations", watched)
    first = go(tmp_path)
    assert "|prose|" in capsys.readouterr().out.replace(" ", "")
    written = json.loads((tmp_path / "lm_eval.json").read_text())
    assert written["results"]["prose"]["bits_per_byte,none"] == first["results"]["prose"]["bits_per_byte,none"] > 0
    assert len((tmp_path / "lm_eval" / "sums.jsonl").read_text().splitlines()) == 3
    monkeypatch.setattr(harness, "continuations", None)
    assert go(tmp_path)["results"] == first["results"]


def test_code_of_the_model_is_run_only_where_that_is_allowed(run, tasks, only_ours, monkeypatch, tmp_path):
    monkeypatch.delenv("HF_ALLOW_CODE_EVAL", raising=False)
    manager = harness.task_manager(run.path, ["risky"], tasks)
    go = functools.partial(harness.evaluate, load(run.path), ["risky"], manager, out=tmp_path, limit=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(UserError, match="runs code that the model has written; --confirm-run-unsafe"):
            go()
        assert "HF_ALLOW_CODE_EVAL" not in os.environ
        assert go(unsafe_code=True)["results"]["risky"]["bits_per_byte,none"] > 0
    monkeypatch.delenv("HF_ALLOW_CODE_EVAL")


def test_errors_that_a_user_can_mend_are_said_as_such(run, tasks, only_ours, monkeypatch, tmp_path):
    manager = harness.task_manager(run.path, ["prose"], tasks)
    go = functools.partial(harness.evaluate, load(run.path), ["prose"], manager, out=tmp_path)

    def fails_with(error):
        def fail(*_, **__):
            raise error

        monkeypatch.setattr(harness, "simple_evaluate", fail)

    for error, message in (
        (ValueError("no sample at max_seq_length=64"), r"max_seq_length=64 \(--lengths\)"),
        (LookupError("Resource punkt_tab not found"), r"not found \(NLTK_DATA\)"),
        (ConnectionError("no network"), "ConnectionError: no network"),
        (ZeroDivisionError("division by zero"), r"too short \(--lengths\)"),
    ):
        fails_with(error)
        with pytest.raises(UserError, match=f"^--lm-eval prose: .*{message}"):
            go()
    fails_with(KeyError("a mistake of ours"))
    with pytest.raises(KeyError):
        go()


def test_tasks_and_rows_that_cannot_be_are_refused(run, tasks, only_ours):
    with pytest.raises(UserError, match="--lm-eval nothing: lm-eval knows no such task, group or tag"):
        harness.task_manager(run.path, ["prose", "nothing"], tasks)
    ours = harness.Rnope(load(run.path), max_length=8)

    def ask(kind, *arguments):
        return getattr(ours, kind)([Instance(kind, {}, arguments, 0)])

    with pytest.raises(UserError, match="max_length = 8: a continuation of 20 tokens is to be scored"):
        ask("loglikelihood", "a", "x" * 20)
    with pytest.raises(UserError, match="max_length = 8: leaves no room for a prompt before 8 tokens"):
        ask("generate_until", "a", {"max_gen_toks": 8})
    assert ask("loglikelihood", "a", "") == [(0.0, True)]
    river = ours.tok_encode("river", add_special_tokens=False)
    assert ours.tok_encode("river") == ours.tok_encode("<|bos|>river") == [ours.prefix_token_id, *river]


def test_long_prompts_keep_their_end(run):
    ours = harness.Rnope(load(run.path), max_length=20)

    def ask(text):
        settings = {"max_gen_toks": 12, "until": [], "do_sample": False}
        return ours.generate_until([Instance("generate_until", {}, (text, settings), 0)])[0]

    assert ask("the river " * 50 + "0123456789") == ask("something else entirely 0123456789") == ask("x23456789")
    assert ask("0123456789") != ask("9876543210")
