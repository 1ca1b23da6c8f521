"""What samples are made of: prose for haystacks, questions with their documents. Local files, or our own."""

import json
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from rnope_jax.config import DataConfig
from rnope_jax.data.sources import read_documents
from rnope_jax.errors import UserError
from rnope_jax.evaluation.ruler import world
from rnope_jax.evaluation.ruler.essay import ESSAY

_SENTENCE = re.compile(r"(?<=[.!?])\s+")


@dataclass(frozen=True)
class Question:
    """A question and the documents that belong to it."""

    number: int
    query: str
    answers: tuple[str, ...]
    """Any of them is right."""
    documents: tuple[str, ...]
    """Those that every sample with this question holds."""
    needed: tuple[str, ...]
    """Those of them that the answer stands in."""
    brief: tuple[str, ...]
    """The sentences of these that matter."""


class Questions(Protocol):
    """Questions, and documents to hide their answers among."""

    def question(self, index: int) -> Question:
        """The question of the sample of this index."""
        ...

    def others(self, number: int, rng: random.Random) -> Iterator[str]:
        """Documents that do not belong to a question, without end."""
        ...


class Invented:
    """Questions about towns that do not exist."""

    #: Numbers of the towns that are asked about; those that are only read about have any number.
    _ASKED = 100_000

    def __init__(self, hops: int):
        self._hops = hops

    def question(self, index: int) -> Question:
        rng = random.Random(f"question {self._hops} {index}")
        town = world.town(rng.randrange(self._ASKED))
        asked = list(world.single(town) if self._hops == 1 else world.double(town))
        query, answer, brief = rng.choice(asked)
        documents = (town.document,) if self._hops == 1 else (town.document, town.founder_document)
        return Question(town.number, query, (answer,), documents, documents, brief)

    def others(self, number: int, rng: random.Random) -> Iterator[str]:
        while True:
            other = rng.randrange(self._ASKED)
            if other != number:
                town = world.town(other)
                yield town.document if self._hops == 1 or rng.random() < 0.5 else town.founder_document


@dataclass(frozen=True)
class Given:
    """Questions of a file."""

    asked: tuple[Question, ...]
    documents: tuple[str, ...]
    """All documents of the file, each once."""
    related: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    """By number: documents about the same, which come first among the others."""

    @cached_property
    def _order(self) -> list[int]:
        return random.Random("questions").sample(range(len(self.asked)), len(self.asked))

    def question(self, index: int) -> Question:
        return self.asked[self._order[index % len(self.asked)]]

    def others(self, number: int, rng: random.Random) -> Iterator[str]:
        own = set(self.asked[number].documents)
        near = list(self.related.get(number, ()))
        rng.shuffle(near)
        yield from near
        far = [document for document in self.documents if document not in own and document not in near]
        rng.shuffle(far)
        # A haystack that is longer than all documents together repeats them.
        again = [*far, *near] or list(own)
        yield from far
        while True:
            yield from again


@dataclass(frozen=True)
class Material:
    """Sources of all tasks."""

    haystack: tuple[str, ...]
    """Words of prose."""
    questions: Mapping[str, Questions]
    """For "qa_1" and "qa_2"."""


def material(haystack: str | None = None, squad: Path | None = None, hotpotqa: Path | None = None) -> Material:
    """Sources from local files; what is not given is taken from texts of our own.

    Args:
      haystack: a text file, a directory of them, or "stdlib".
      squad: questions of qa_1, as in SQuAD's dev-v2.0.json.
      hotpotqa: questions of qa_2, as in HotpotQA's hotpot_dev_distractor_v1.json.

    Raises:
      UserError: if a file cannot be read as what it should be.
    """
    words = tuple(ESSAY.split())
    if haystack is not None:
        documents, _ = read_documents([haystack], DataConfig().suffixes, "haystack")
        words = tuple(word for document in documents for word in document.text.split())
    if not words:
        raise UserError(f"haystack = {haystack!r}: there is no text in it; give another --haystack")
    return Material(
        haystack=words,
        questions={
            "qa_1": Invented(1) if squad is None else _read(squad, _squad, "SQuAD"),
            "qa_2": Invented(2) if hotpotqa is None else _read(hotpotqa, _hotpotqa, "HotpotQA"),
        },
    )


def _read(path: Path, reader: Any, kind: str) -> Given:
    try:
        found: Given = reader(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise UserError(
            f"{path}: not a file of questions as {kind} has them ({type(error).__name__}: {error})"
        ) from error
    if not found.asked:
        raise UserError(f"{path}: holds no question that can be answered; give another file, or leave the option out")
    return found


def _squad(data: Any) -> Given:
    asked: list[Question] = []
    related = {}
    for article in data["data"]:
        contexts = tuple(dict.fromkeys(paragraph["context"] for paragraph in article["paragraphs"]))
        for paragraph in article["paragraphs"]:
            context = paragraph["context"]
            for entry in paragraph["qas"]:
                answers = tuple(dict.fromkeys(answer["text"] for answer in entry["answers"]))
                if entry.get("is_impossible") or not answers:
                    continue
                number = len(asked)
                brief = _with(context, answers)
                asked.append(Question(number, entry["question"], answers, (context,), (context,), (brief,)))
                related[number] = tuple(other for other in contexts if other != context)
    documents = {paragraph["context"] for article in data["data"] for paragraph in article["paragraphs"]}
    return Given(tuple(asked), tuple(sorted(documents)), related)


def _hotpotqa(data: Any) -> Given:
    asked: list[Question] = []
    documents: set[str] = set()
    for entry in data:
        sentences = dict(entry["context"])
        shown = {title: f"{title}\n{''.join(text)}" for title, text in sentences.items()}
        facts: dict[str, list[str]] = {}
        for title, place in entry["supporting_facts"]:
            if title in sentences and place < len(sentences[title]):
                facts.setdefault(title, []).append(sentences[title][place])
        if not facts:
            continue  # nothing in the file answers it
        needed = tuple(shown[title] for title in facts)
        brief = tuple(f"{title}\n{''.join(text).strip()}" for title, text in facts.items())
        asked.append(Question(len(asked), entry["question"], (entry["answer"],), tuple(shown.values()), needed, brief))
        documents |= set(shown.values())
    return Given(tuple(asked), tuple(sorted(documents)))


def _with(document: str, answers: tuple[str, ...]) -> str:
    """The first sentence that has an answer in it."""
    sentences = _SENTENCE.split(document)
    return next((part for part in sentences if any(answer in part for answer in answers)), document)
