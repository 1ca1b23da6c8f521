"""Through lm-evaluation-harness, a run and its export give what the harness's own backend makes of the export."""

import warnings

import lm_eval
import pytest
from lm_eval.tasks import TaskManager

from rnope_jax import interop
from rnope_jax.evaluation import harness
from tests.evaluation.test_harness import run, tasks
from tests.parity.huggingface import torch, transformers

__all__ = ["run", "tasks"]  # fixtures

assert harness.Rnope  # now it is registered
assert torch, transformers  # what the backend "hf" needs

#: Longest row: prompts that are longer are cut on the left.
CONTEXT = 96


@pytest.fixture(scope="module")
def exported(run):
    out = run.path.parent / "out"
    interop.export(run.path, out, dtype="float32", check=False, report=lambda _: None)
    return out


def evaluate(name, arguments, tasks):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the harness and of what it imports
        return lm_eval.simple_evaluate(
            name,
            {"max_length": CONTEXT, **arguments},
            tasks=["rivers", "prose", "sums"],
            task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
            bootstrap_iters=0,
            batch_size=2,
        )


def test_a_run_and_its_export_are_scored_as_by_hf(run, exported, tasks):
    expected = evaluate("hf", {"pretrained": str(exported), "dtype": "float32", "device": "cpu"}, tasks)
    for directory in (run.path, exported):
        found = evaluate("rnope", {"pretrained": str(directory), "batch_tokens": 300}, tasks)
        for task, samples in expected["samples"].items():
            assert len(found["samples"][task]) == len(samples) > 2
            for ours, theirs in zip(found["samples"][task], samples, strict=True):
                assert ours["doc"] == theirs["doc"]
                assert ours["arguments"] == theirs["arguments"]
                for own, other in zip(ours["resps"], theirs["resps"], strict=True):
                    if task == "sums":
                        assert own == other
                    elif task == "prose":
                        assert own[0] == pytest.approx(other[0], abs=1e-3)
                    else:
                        assert own[0][0] == pytest.approx(other[0][0], abs=1e-3)
                        assert own[0][1] == other[0][1]
            for metric, value in expected["results"][task].items():
                if isinstance(value, float):
                    assert found["results"][task][metric] == pytest.approx(value, rel=1e-4)
    answers = [sample["resps"][0][0] for sample in expected["samples"]["sums"]]
    assert any(answers)
    assert not any("t" in answer for answer in answers)
