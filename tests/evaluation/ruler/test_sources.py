"""Haystacks and questions from files."""

import json
import random
from itertools import islice

import pytest

from rnope_jax.errors import UserError
from rnope_jax.evaluation.ruler import TASKS, Generator, material
from tests.evaluation.reading import documents, english


def squad(articles=4, paragraphs=5) -> dict:
    """Questions in the format of SQuAD 2.0, of which every third cannot be answered."""

    def entry(article, paragraph):
        name = f"fact-{article}-{paragraph}"
        answers = [{"text": name, "answer_start": 0}, {"text": name, "answer_start": 9}]
        impossible = paragraph % 3 == 2
        return {
            "question": f"What does paragraph {paragraph} of {article} say?",
            "answers": [] if impossible else answers,
            "is_impossible": impossible,
        }

    def context(article, paragraph):
        return f"Article {article} goes on for a while. It says fact-{article}-{paragraph} and more. " * 2

    return {
        "data": [
            {
                "title": str(article),
                "paragraphs": [
                    {"context": context(article, paragraph), "qas": [entry(article, paragraph)]}
                    for paragraph in range(paragraphs)
                ],
            }
            for article in range(articles)
        ]
    }


def hotpotqa(count=6) -> list:
    """Questions in the format of HotpotQA's distractor setting: two of ten documents are needed."""
    return [
        {
            "question": f"Which colour has the boat of the keeper of lighthouse {number}?",
            "answer": f"colour-{number}",
            "supporting_facts": [[f"Lighthouse {number}", 1], [f"Keeper {number}", 0]],
            "context": [
                [f"Lighthouse {number}", ["It is old.", f" Its keeper is keeper {number}."]],
                [f"Keeper {number}", [f"The boat is colour-{number}.", " It is fast."]],
                *([f"Other {number}-{other}", ["Nothing to see. ", "Really nothing."]] for other in range(8)),
            ],
        }
        for number in range(count)
    ]


@pytest.fixture
def given(tmp_path):
    (tmp_path / "squad.json").write_text(json.dumps(squad()))
    (tmp_path / "hotpotqa.json").write_text(json.dumps(hotpotqa()))
    (tmp_path / "haystack.txt").write_text("Waves come in.  Waves go\nout again! " * 40)
    return material(str(tmp_path / "haystack.txt"), tmp_path / "squad.json", tmp_path / "hotpotqa.json")


@pytest.mark.parametrize("length", [256, 1024, 4096])
@pytest.mark.parametrize(("task", "belonging"), [("qa_1", 1), ("qa_2", 10)])
def test_samples_of_files(given, task, belonging, length):
    made = Generator(TASKS[task], length, english(), given)
    for sample in made.samples(6):
        assert 0.99 * length <= 1 + len(english().encode(sample.prompt)) + sample.tokens_to_generate <= length
        assert any(sample.outputs[0] in document for document in documents(sample.prompt))
        if made.variant is TASKS[task].variants[0]:
            assert sample.others["gold_documents"] == belonging
    assert (length >= 1024) == (made.variant is TASKS[task].variants[0])


def test_every_question_is_asked_before_one_is_asked_again(given):
    for task, count in (("qa_1", 16), ("qa_2", 6)):
        made = Generator(TASKS[task], 2048, english(), given)
        assert len({sample.others["id"] for sample in made.samples(count)}) == count
        assert {sample.outputs for sample in made.samples(count)} == {
            question.answers for question in given.questions[task].asked
        }


def test_documents_about_the_same_come_first(given):
    questions = given.questions["qa_1"]
    question = questions.question(0)
    article = question.query.split(" of ")[1].split()[0]
    others = list(islice(questions.others(question.number, random.Random(0)), 19))
    assert all(f"Article {article} " in text for text in others[:4])
    assert not any(f"Article {article} " in text for text in others[4:])
    assert len(set(others)) == 19
    assert question.documents[0] not in others


def test_a_haystack_of_a_file(given):
    sample = Generator(TASKS["niah_single_2"], 2048, english(), given).sample(0)
    assert "Waves come in. Waves go out again! Waves come in." in sample.input  # repeated, on one line
    assert "workshop" not in sample.input


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"data": 3}', '[{"question": "?"}]', '{"data": []}', "\x00"])
def test_files_of_something_else_are_refused(tmp_path, text):
    path = tmp_path / "questions.json"
    path.write_text(text)
    for name in ("squad", "hotpotqa"):
        with pytest.raises(UserError, match=r"questions\.json: (not a file of questions|holds no question)"):
            material(**{name: path})


def test_questions_without_what_answers_them_are_left_out(tmp_path):
    entries = hotpotqa(3)
    entries[0]["context"] = []
    entries[1]["supporting_facts"] = [["Elsewhere", 0], ["Keeper 1", 7]]
    path = tmp_path / "hotpotqa.json"
    path.write_text(json.dumps(entries))
    made = Generator(TASKS["qa_2"], 1024, english(), material(hotpotqa=path))
    assert {sample.outputs for sample in made.samples(4)} == {("colour-2",)}
    path.write_text(json.dumps(entries[:2]))
    with pytest.raises(UserError, match="holds no question that can be answered"):
        material(hotpotqa=path)


def test_files_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"absent\.json: cannot be read: No such file"):
        material(squad=tmp_path / "absent.json")
    with pytest.raises(UserError, match=r"haystack: .*absent does not exist"):
        material(haystack=str(tmp_path / "absent"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="there is no text in it"):
        material(haystack=str(tmp_path / "empty"))
