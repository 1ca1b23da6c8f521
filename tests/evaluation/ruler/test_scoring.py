"""Answers are scored as NVIDIA's rules say."""

import random
import re

import pytest

from rnope_jax.evaluation.ruler import TASKS, Generator, material
from rnope_jax.evaluation.ruler.scoring import string_match_all, string_match_part
from tests.evaluation.reading import english

MATERIAL = material()


def by_nvidia(task, answers, references) -> float:
    """The rules of scripts/eval in NVIDIA/RULER, stated once more: the mean of hits, and for questions the best."""
    total = 0.0
    for answer, own in zip(answers, references, strict=True):
        text = re.sub("[\x00-\x1f]", "\n", answer.strip()).strip()
        hits = [1.0 if reference.lower() in text.lower() else 0.0 for reference in own]
        total += max(hits) if task in ("qa_1", "qa_2") else sum(hits) / len(hits)
    return 100 * total / len(answers)


def answers_to(sample, kind) -> str:
    """What a model could say."""
    known = list(sample.outputs)
    half = known[: max(1, len(known) // 2)] if kind == "half" else known
    return {
        "right": " " + ", ".join(known) + ".",
        "shouted": f"\t{' and '.join(known).upper()}\x00\x1b",
        "half": "\n It is " + ", ".join(half) + " or so",
        "empty": "",
        "wrong": " I do not know.",
    }[kind]


@pytest.mark.parametrize("kind", ["right", "shouted", "half", "empty", "wrong"])
@pytest.mark.parametrize("task", TASKS)
def test_scores_are_nvidias(task, kind):
    samples = list(Generator(TASKS[task], 1024, english(), MATERIAL).samples(3))
    answers = [answers_to(sample, kind) for sample in samples]
    references = [list(sample.outputs) for sample in samples]
    ours = [TASKS[task].score(*pair) for pair in zip(answers, references, strict=True)]
    assert 100 * sum(ours) / 3 == pytest.approx(by_nvidia(task, answers, references))
    count = len(samples[0].outputs)
    expected = {"right": 1, "shouted": 1, "half": 1 if count == 1 else (count // 2) / count, "empty": 0, "wrong": 0}
    assert ours == [pytest.approx(expected[kind])] * 3


def test_of_several_names_for_one_answer_any_will_do():
    names = ["New York City", "NYC", "New York"]
    assert string_match_part("I would say NYC", names) == 1.0
    assert string_match_part("Boston", names) == 0.0
    assert string_match_all("I would say nyc", names) == pytest.approx(1 / 3)


def test_any_text_is_scored_alike():
    rng = random.Random(0)
    letters = "aAbB 1\n\t\x07é.İ"
    for _ in range(300):
        answer = "".join(rng.choices(letters, k=12))
        references = ["".join(rng.choices(letters, k=rng.randint(1, 2))) for _ in range(3)]
        assert 100 * string_match_all(answer, references) == pytest.approx(by_nvidia("vt", [answer], [references]))
        assert 100 * string_match_part(answer, references) == by_nvidia("qa_1", [answer], [references])
