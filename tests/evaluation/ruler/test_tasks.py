"""RULER's tasks: they can be solved from their prompts, are as long as asked for, and always the same."""

import importlib.util
import random
import re
from collections import Counter
from pathlib import Path

import pytest

from rnope_jax.errors import UserError
from rnope_jax.evaluation.ruler import TASKS, Generator, lists, material, niah, questions, tracing, words, world
from rnope_jax.evaluation.ruler.samples import NOISE
from tests.evaluation.reading import documents, english, needles, solve
from tests.interop.models import small_tokenizer

#: Keys, values, queries and distractors of a needle task as RULER defines it; None where there are as many as fit.
NEEDLES = {
    "niah_single_1": (1, 1, 1, 0),
    "niah_single_2": (1, 1, 1, 0),
    "niah_single_3": (1, 1, 1, 0),
    "niah_multikey_1": (4, 1, 1, 3),
    "niah_multikey_2": (1, 1, 1, None),
    "niah_multikey_3": (1, 1, 1, None),
    "niah_multivalue": (1, 4, 1, 0),
    "niah_multiquery": (4, 1, 4, 0),
}
KEPT = {**dict.fromkeys(NEEDLES, 128), "vt": 30, "cwe": 120, "fwe": 50, "qa_1": 32, "qa_2": 32}

MATERIAL = material()


def generator(task, length, seed=0, tokenizer=None) -> Generator:
    return Generator(TASKS[task], length, tokenizer or english(), MATERIAL, seed)


def tokens(sample, tokenizer=None) -> int:
    """Tokens of prompt and answer, counted anew."""
    return 1 + len((tokenizer or english()).encode(sample.prompt)) + sample.tokens_to_generate


@pytest.mark.parametrize("length", [256, 512, 1024, 2048, 4096, 16_384])
@pytest.mark.parametrize("task", TASKS)
def test_samples_can_be_solved_and_are_as_long_as_asked_for(task, length):
    made = generator(task, length)
    for sample in made.samples(4 if length <= 4096 else 1):
        assert Counter(solve(task, sample.prompt)) == Counter(sample.outputs)
        assert tokens(sample) == sample.length
        assert 0.99 * length <= sample.length <= length
        assert len(english().encode(" " + ", ".join(sample.outputs))) <= sample.tokens_to_generate


@pytest.mark.parametrize("task", ["niah_multikey_2", "cwe"])
def test_long_samples(task):
    (sample,) = generator(task, 131_072).samples(1)
    assert 0.99 * 131_072 <= tokens(sample) <= 131_072
    assert Counter(solve(task, sample.prompt)) == Counter(sample.outputs)


@pytest.mark.parametrize("task", ["niah_single_1", "vt", "qa_2"])
def test_tokens_of_single_letters(task):
    sample = generator(task, 1500, tokenizer=small_tokenizer()).sample(0)
    assert 0.99 * 1500 <= tokens(sample, small_tokenizer()) <= 1500


@pytest.mark.parametrize("length", [4096, 8192])
@pytest.mark.parametrize("task", TASKS)
def test_from_4096_tokens_on_every_task_is_as_defined(task, length):
    made = generator(task, length)
    assert made.variant is TASKS[task].variants[0]
    needed = len(english().encode(" " + " ".join(made.sample(0).outputs))) + 8
    assert made.sample(0).tokens_to_generate in (KEPT[task], max(KEPT[task], needed))


@pytest.mark.parametrize("task", NEEDLES)
@pytest.mark.parametrize("length", [1024, 4096])
def test_needles_and_distractors(task, length):
    keys, values, queries, distractors = NEEDLES[task]
    for sample in generator(task, length).samples(3):
        found = needles(sample.prompt)
        by_key = Counter(key for _, key, _ in found)
        asked = [key for key in by_key if key in sample.prompt.split("\nWhat ")[-1]]
        assert len(asked) == queries
        assert [by_key[key] for key in asked] == [values] * queries
        if distractors is None:
            assert len(found) - 1 == sample.others["distractors"] > 5
        else:
            assert len(by_key) == keys
            assert len(found) - len(sample.outputs) == distractors == sample.others["distractors"]
        kind = "uuids" if task in ("niah_single_3", "niah_multikey_3") else "numbers"
        assert {kind} == {kind for kind, _, _ in found}
        pattern = r"\d{7}" if kind == "numbers" else r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
        assert all(re.fullmatch(pattern, value) for _, _, value in found)
        assert sample.answer_prefix.endswith(" text is" if len(sample.outputs) == 1 else " text are")


def test_no_distractor_has_the_key_that_is_asked_for(monkeypatch):
    monkeypatch.setattr(words, "ADJECTIVES", ("big", "red"))
    monkeypatch.setattr(words, "NOUNS", ("hat", "pin"))
    for sample in generator("niah_multikey_2", 2048).samples(3):
        keys = Counter(key for _, key, _ in needles(sample.prompt))
        assert len(keys) == 4  # all there are
        assert sorted(keys.values())[0] == 1
        assert Counter(solve("niah_multikey_2", sample.prompt)) == Counter(sample.outputs)


def test_the_noise_says_nothing_and_lies_around_the_needle():
    places = set()
    for sample in generator("niah_single_1", 2048).samples(12):
        lines = sample.input.split("\n")[1:-1]
        assert set(lines[:-1]) - {NOISE} == {line for line in lines[:-1] if line.startswith("One of")}
        places.add(next(n for n, line in enumerate(lines) if line.startswith("One of")) / len(lines))
    assert len(places) > 6
    assert min(places) < 0.35 < 0.65 < max(places)


def test_needles_lie_at_the_depths_that_are_told():
    for sample in generator("niah_multikey_1", 4096).samples(5):
        text = sample.input.split("\n", 1)[1].rsplit("\nWhat", 1)[0]
        sentences = re.split(r"(?<=[.!?])\s+|\s(?=One of the special)", text)
        depths = []
        for number, sentence in enumerate(sentences):
            if sentence.startswith("One of the special"):
                depths.append(100 * (number - len(depths)) / (len(sentences) - 4))
        assert depths == pytest.approx(sample.others["depths"], abs=100 / (len(sentences) - 4))
        assert set(sample.others["depths"]) <= set(niah.DEPTHS)
    assert niah.DEPTHS[:3] == (0, 3, 5)
    assert niah.DEPTHS[-2:] == (97, 100)
    assert len(niah.DEPTHS) == 40


def test_words_are_repeated_as_defined():
    for length, often, seldom in ((2048, 6, 1), (4096, 30, 3), (8192, 30, 3)):
        sample = generator("cwe", length).sample(0)
        assert sample.prompt.count("Below is a numbered list") == 2  # a worked example comes first
        listed = re.findall(r"(\d+)\. (\S+)", sample.prompt.rsplit("\n", 2)[1])
        assert [int(number) for number, _ in listed] == list(range(1, len(listed) + 1))
        counts = Counter(word for _, word in listed)
        assert {counts[word] for word in sample.outputs} == {often}
        assert {counts[word] for word in counts if word not in sample.outputs} == {seldom}
        assert len(counts) == 10 + sample.others["uncommon_words"]


def test_prompts_are_worded_as_those_of_the_harness():
    directory = Path(importlib.util.find_spec("lm_eval").origin).parent / "tasks" / "ruler"
    source = "".join(file.read_text() for file in sorted(directory.glob("*_utils.py")))
    ten = {"context": "{context}", "num_cw": 10}
    wanted = [niah.TEMPLATE, tracing.TEMPLATE, tracing.ANSWER_PREFIX, lists.COMMON_TEMPLATE.format(**ten)]
    wanted += [lists.COMMON_PREFIX.format(**ten), lists.FREQUENT_TEMPLATE, lists.FREQUENT_PREFIX, questions.TEMPLATE]
    for text in wanted:
        assert text.replace("\n", "\\n") in source
    assert niah.ANSWER_PREFIX.strip() in (directory / "prepare_niah.py").read_text()


def test_coded_words_follow_the_zeta_law():
    sample = generator("fwe", 8192).sample(0)
    text = re.search(r"appeared coded words\. (.*)\nQuestion", sample.prompt)[1].split()
    counts = Counter(text)
    assert counts["..."] == max(counts.values())
    total = sample.others["words"]
    for rank, word in enumerate(sample.outputs, 2):
        assert counts[word] == int(total * rank**-2.0 / (3.141592653589793**2 / 6))
        assert re.fullmatch("[a-z]{6}", word)


def test_a_chain_has_four_hops_after_an_example_with_other_names():
    sample = generator("vt", 4096).sample(0)
    assert len(sample.outputs) == 5
    example, text = sample.prompt.split("\n\nMemorize and track")
    assert example.count("VAR ") == text.count("VAR ") == 9
    assert not set(re.findall(r"VAR (\w+)", example)) & set(sample.outputs)
    assert sample.answer_prefix.startswith(" Answer: According to the chain(s)")
    assert "5 variables are assgined the value" in sample.answer_prefix
    assert re.search(r" again\.\n VAR \w+ = VAR \w+  The grass", text)  # lines end after noise only, as NVIDIA's


@pytest.mark.parametrize("task", ["qa_1", "qa_2"])
def test_gold_documents_lie_among_others(task):
    places = set()
    for sample in generator(task, 2048).samples(8):
        found = documents(sample.prompt)
        assert (
            len(found) == sample.others["documents"] == sample.others["gold_documents"] + sample.others["distractors"]
        )
        asked = world.town(sample.others["id"])
        gold = [asked.document] + [asked.founder_document] * (task == "qa_2")
        assert sample.others["gold_documents"] == len(gold)
        for document in gold:
            (place,) = [n for n, text in enumerate(found) if text.startswith(document)]
            places.add(place)
        others = [text for text in found if not text.startswith(tuple(gold))]
        assert not any(asked.name in text for text in others[:-1])
    assert len(places) > 5


@pytest.mark.parametrize("task", TASKS)
def test_a_sample_depends_on_nothing_but_seed_length_and_index(task):
    first, second = (generator(task, 512) for _ in range(2))
    alone = first.sample(3)
    assert [sample.input for sample in second.samples(5)][3] == alone.input
    assert list(first.samples(2)) == list(second.samples(5))[:2]
    assert len({sample.input for sample in first.samples(5)}) == 5
    assert generator(task, 512, seed=1).sample(3).input != alone.input


@pytest.mark.parametrize("task", TASKS)
def test_a_budget_that_is_too_small_is_refused(task):
    with pytest.raises(UserError, match=rf"length = 60: the smallest sample of {task} takes up to \d+ tokens"):
        generator(task, 60)


def test_towns_have_names_of_their_own():
    towns = [world.town(number) for number in random.Random(0).sample(range(100_000), 6000)]
    assert len({town.name for town in towns}) == len({town.founder for town in towns}) == 6000
    assert not {town.name for town in towns} & {town.birthplace for town in towns}
