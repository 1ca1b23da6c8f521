"""Documents that teach retrieval."""

import random
import re
from itertools import islice

import pytest

from rnope_jax.data.retrieval import INTRODUCTIONS, Fact, documents, draw_fact, repetitions, vocabulary
from rnope_jax.errors import UserError

TEXTS = [
    "the river flows past the stone house\nunder a cloud of morning light\n" * 20,
    "def main(there):\n    return forty + seven\n" * 30,
]

SENTENCE = re.compile(r"One of the special magic numbers for (\S+) is: (\d{7})\.\s")
LINE = re.compile(r"(\S+-\S+): (\d{7})")
QUESTION = re.compile(
    r"What is the special magic number for (\S+) mentioned in the provided text\? "
    r"The special magic number for (\S+) mentioned in the provided text is (\d{7})\n"
)


REPEATED = re.compile(r"[a-z]{4,9}|\d{7}")


def is_list(document):
    return LINE.fullmatch(document.text.splitlines()[0]) is not None


def test_repetitions_tell_words_and_numbers_again_in_the_same_order():
    words, counts, numbers = set(vocabulary(TEXTS)), set(), 0
    for document in islice(repetitions(TEXTS, 10**6, seed=1), 100):
        told = document.text.split()
        (period, *_) = (n for n in range(1, len(told)) if len(told) % n == 0 and told == told[:n] * (len(told) // n))
        assert len(told) // period >= 2
        assert len(document.text) >= 240
        assert all(REPEATED.fullmatch(word) for word in told)
        assert {word for word in told if not word.isdigit()} <= words
        counts.add(period)
        numbers += sum(word.isdigit() for word in told[:period])
    assert counts == set(range(12, 21))  # few of them fit into a window of the study
    assert 500 < numbers < 800  # of about sixteen hundred


def test_lists_tell_all_their_facts_several_times_in_other_orders():
    lists = [
        document.text.splitlines() for document in islice(documents(TEXTS, 10**6, seed=1), 200) if is_list(document)
    ]
    assert 60 < len(lists) < 125
    for lines in lists:
        assert all(LINE.fullmatch(line) for line in lines)
        facts = set(lines)
        assert len({LINE.fullmatch(line)[1] for line in facts}) == len(facts) <= 10
        rounds = [lines[start : start + len(facts)] for start in range(0, len(lines), len(facts))]
        assert len(rounds) >= 2
        assert all(set(told) == facts for told in rounds)
    assert sum(lines[: len(lines) // 2] != lines[len(lines) // 2 :] for lines in lists) > 20


def test_every_question_has_its_answer_earlier_in_the_document():
    facts_seen, several = set(), 0
    for document in islice(documents(TEXTS, 10**6, seed=1), 200):
        if is_list(document):
            continue
        facts, questions = dict(SENTENCE.findall(document.text)), QUESTION.findall(document.text)
        assert 1 <= len(questions) <= len(facts) <= 3
        several += len(questions) > 1
        for asked, again, value in questions:
            assert asked == again
            assert facts[asked] == value
        assert len({key for key, _, _ in questions}) == len(questions)
        assert max(m.end() for m in SENTENCE.finditer(document.text)) <= QUESTION.search(document.text).start()
        facts_seen |= facts.keys()
    assert len(facts_seen) > 100
    assert several > 30  # the key tells which value is asked for


def test_the_text_around_the_facts_is_a_passage_of_one_of_the_texts():
    passages, introduced, in_one_line, repeated = set(), 0, 0, 0
    others = (document for document in documents(TEXTS, 10**6, seed=2) if not is_list(document))
    for document in islice(others, 60):
        text, asked = document.text, len(QUESTION.findall(document.text))
        if text.startswith(INTRODUCTIONS[asked > 1]):
            introduced, text = introduced + 1, text.partition("\n")[2]
        repeated += len(SENTENCE.findall(text)) > len(set(SENTENCE.findall(text)))
        passage = QUESTION.sub("", SENTENCE.sub("", text))
        whole = any(passage in own for own in TEXTS)
        assert whole or any(passage.strip() in " ".join(own.split()) for own in TEXTS)
        in_one_line += not whole
        passages.add(passage)
    assert len(passages) > 20
    for count in (introduced, in_one_line, repeated):
        assert 5 < count < 55


def test_the_same_seed_gives_the_same_documents_and_another_seed_others():
    for make in (documents, repetitions):
        made = [[document.text for document in make(TEXTS, 5000, seed)] for seed in (3, 3, 4)]
        assert made[0] == made[1] != made[2]
        assert 5000 <= sum(map(len, made[0])) < 5000 + 2000
        names = [document.name for document in make(TEXTS, 5000, 3)]
        assert len(set(names)) == len(names)


def test_texts_without_words_are_refused():
    for make in (documents, repetitions):
        with pytest.raises(UserError, match="at least 2 words"):
            make(["a b c"], 100, 0)


def test_a_text_of_one_line_will_do():
    assert any("word after word" in document.text for document in documents(["word after word"], 5000, 0))


def test_a_fact_says_what_is_asked():
    fact = draw_fact(vocabulary(TEXTS), random.Random(0))
    assert fact == Fact(fact.key, fact.value)
    assert SENTENCE.fullmatch(f"{fact.sentence}\n").groups() == (fact.key, fact.value)
    assert QUESTION.fullmatch(f"{fact.question}{fact.answer}\n").groups() == (fact.key, fact.key, fact.value)
