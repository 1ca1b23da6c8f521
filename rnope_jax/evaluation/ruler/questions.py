"""RULER's two tasks of question answering: the documents that answer a question, among others."""

import random
from dataclasses import dataclass
from typing import Any, Literal

from rnope_jax.evaluation.ruler.samples import Draft, Drawing
from rnope_jax.evaluation.ruler.sources import Questions

TEMPLATE = (
    "Answer the question based on the given documents. Only give me the answer and do not output any other words.\n\n"
    "The following are given documents.\n\n{context}\n\nAnswer the question based on the given documents. Only give me "
    "the answer and do not output any other words.\n\nQuestion: {query}"
)
ANSWER_PREFIX = " Answer:"
DOCUMENT = "Document {i}:\n{document}"


@dataclass(frozen=True)
class Reading:
    """What of the documents is shown."""

    questions: str
    """Which questions: "qa_1" or "qa_2"."""
    others: int = 1
    """Fewest documents that do not answer."""
    shown: Literal["documents", "needed", "brief"] = "documents"
    """What of the question's documents is shown (`sources.Question`)."""
    brief: bool = False


def variants(questions: str) -> tuple[Reading, ...]:
    """The task, then the same with less and less text around the answer."""
    return (
        Reading(questions),
        Reading(questions, brief=True),
        Reading(questions, brief=True, shown="needed", others=0),
        Reading(questions, brief=True, shown="brief", others=0),
    )


def draft(drawing: Drawing, reading: Reading) -> Draft:
    """A sample of question answering."""
    questions = drawing.material.questions[reading.questions]
    question = questions.question(drawing.index)
    gold = list(getattr(question, reading.shown))
    text = _Documents(gold, question.query, questions, question.number, drawing.rng.random())

    def others(units: int) -> dict[str, Any]:
        return {
            "documents": len(gold) + units,
            "gold_documents": len(gold),
            "distractors": units,
            "id": question.number,
        }

    longest = max(question.answers, key=drawing.count)
    return Draft(
        text=text,
        answer_prefix=ANSWER_PREFIX,
        outputs=question.answers,
        answer=f" {longest}",
        least=reading.others,
        others=others,
    )


class _Documents:
    """The documents of a question among others."""

    most = 1 << 40

    def __init__(self, gold: list[str], query: str, questions: Questions, number: int, seed: float):
        self._gold, self._query, self._seed = gold, query, str(seed)
        self._others = questions.others(number, random.Random(self._seed))
        self._made: list[str] = []

    def build(self, units: int, letters: int) -> str:
        documents = [*self._gold, *self._more(units)]
        random.Random(self._seed).shuffle(documents)
        listed = "\n\n".join(DOCUMENT.format(i=number, document=text) for number, text in enumerate(documents, 1))
        if letters:  # the last document goes on
            listed += " " + self.filler(units)[:letters]
        return TEMPLATE.format(context=listed, query=self._query)

    def filler(self, units: int) -> str:
        return " ".join(self._more(units + 3)[units:]).replace("\n", " ")

    def _more(self, units: int) -> list[str]:
        while len(self._made) < units:
            self._made.append(next(self._others))
        return self._made[:units]
