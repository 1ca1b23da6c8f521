"""Documents that teach retrieval."""

import random
import re
from itertools import islice

import pytest

from rnope_jax.data.retrieval import INTRODUCTIONS, Fact, documents, draw_fact, vocabulary
from rnope_jax.errors import UserError

TEXTS = [
    "the river flows past the stone house\nunder a cloud of morning light\n" * 20,
    "def main(there):\n    return forty + seven\n" * 30,
]

SENTENCE = re.compile(r"One of the special magic numbers for (\S+) is: (\d{7})\.\s")
QUESTION = re.compile(
    r"What is the special magic number for (\S+) mentioned in the provided text\? "
    r"The special magic number for (\S+) mentioned in the provided text is (\d{7})\n"
)


def test_every_question_has_its_answer_earlier_in_the_document():
    facts_seen = set()
    for document in islice(documents(TEXTS, 10**6, seed=1), 200):
        facts, questions = dict(SENTENCE.findall(document.text)), QUESTION.findall(document.text)
        assert 1 <= len(questions) <= len(facts)
        for asked, again, value in questions:
            assert asked == again
            assert facts[asked] == value
        assert len({key for key, _, _ in questions}) == len(questions)
        assert max(m.end() for m in SENTENCE.finditer(document.text)) <= QUESTION.search(document.text).start()
        facts_seen |= facts.keys()
    assert len(facts_seen) > 100


def test_the_text_around_the_facts_is_a_passage_of_one_of_the_texts():
    starts, in_one_line = set(), 0
    for document in islice(documents(TEXTS, 10**6, seed=2), 50):
        first, _, rest = document.text.partition("\n")
        assert first == INTRODUCTIONS[len(QUESTION.findall(rest)) > 1]
        passage = QUESTION.sub("", SENTENCE.sub("", rest))
        whole = [passage in text for text in TEXTS]
        assert any(whole) or any(passage.strip() in " ".join(text.split()) for text in TEXTS)
        in_one_line += not any(whole)
        starts.add(passage)
    assert len(starts) > 25
    assert 10 < in_one_line < 40


def test_the_same_seed_gives_the_same_documents_and_another_seed_others():
    made = [[document.text for document in documents(TEXTS, 5000, seed)] for seed in (3, 3, 4)]
    assert made[0] == made[1] != made[2]
    assert 5000 <= sum(map(len, made[0])) < 5000 + 2000
    names = [document.name for document in documents(TEXTS, 5000, 3)]
    assert len(set(names)) == len(names)


def test_texts_without_words_are_refused():
    with pytest.raises(UserError, match="at least 2 words"):
        next(documents(["a b c"], 100, 0))


def test_a_text_of_one_line_will_do():
    assert "word after word" in next(documents(["word after word"], 1, 0)).text


def test_a_fact_says_what_is_asked():
    fact = draw_fact(vocabulary(TEXTS), random.Random(0))
    assert fact == Fact(fact.key, fact.value)
    assert SENTENCE.fullmatch(f"{fact.sentence}\n").groups() == (fact.key, fact.value)
    assert QUESTION.fullmatch(f"{fact.question}{fact.answer}\n").groups() == (fact.key, fact.key, fact.value)
