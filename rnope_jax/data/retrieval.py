"""Documents that teach retrieval: repetitions, lists of facts, and facts hidden in text with questions about them.

The sentences are those of RULER's needle tasks (arXiv 2404.06654), so that a model which has learned
from such documents, however short, can be asked about longer texts in the same words.
"""

import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rnope_jax.data.sources import Document
from rnope_jax.errors import UserError

#: What stands before a text about which one question is asked, and before one with several.
INTRODUCTIONS = (
    "A special magic number is hidden within the following text. Make sure to memorize it. "
    "I will quiz you about the number afterwards.",
    "Some special magic numbers are hidden within the following text. Make sure to memorize it. "
    "I will quiz you about the numbers afterwards.",
)

#: Characters of a document: some are as long as fit into a short row, so that facts lie outside of windows.
_SHORTEST, _LONGEST = 400, 760

#: Share of documents that are lists. Retrieval is learned from what can be known: in a list that is most tokens, among
#: questions as RULER puts them few. So lists teach to look up, and the other documents where that is asked for.
_LISTS = 0.5

#: Facts in a list, at least and at most.
_FEWEST_LISTED, _LISTED = 4, 10

#: Facts in another document, at most; each of these is asked for.
_FACTS = 3

#: Shares of the others with an introduction, with text in one line as that of RULER is, and with facts told twice.
_INTRODUCED, _IN_ONE_LINE, _TOLD_TWICE = 0.3, 0.5, 0.5

#: Words and numbers of a repetition, at least and at most; characters until which they are told again. The fewest take
#: 29 to 50 tokens, 41 on average, where a window of the study has 32. What a window can copy, full layers need not
#: learn: with shorter repetitions one seed of three found little but what stands just before the question.
_FEWEST_REPEATED, _REPEATED, _REPETITION = 12, 20, 240

#: Share of words in a repetition.
_WORDS = 0.6

_WORD = re.compile(r"\b[a-z]{4,9}\b")


@dataclass(frozen=True)
class Fact:
    """A key and its value."""

    key: str
    value: str

    @property
    def sentence(self) -> str:
        """What is hidden in a text."""
        return f"One of the special magic numbers for {self.key} is: {self.value}."

    @property
    def line(self) -> str:
        """The fact in short, as it stands in lists."""
        return f"{self.key}: {self.value}\n"

    @property
    def question(self) -> str:
        """What is asked after the text, with the beginning of the answer."""
        asked = f"the special magic number for {self.key} mentioned in the provided text"
        return f"What is {asked}? The {asked[4:]} is"

    @property
    def answer(self) -> str:
        """What follows the question."""
        return f" {self.value}"


def draw_fact(words: Sequence[str], rng: random.Random) -> Fact:
    """A key of two words and a value of seven digits."""
    return Fact(f"{rng.choice(words)}-{rng.choice(words)}", _number(rng))


def _number(rng: random.Random) -> str:
    return str(rng.randrange(10**6, 10**7))


def vocabulary(texts: Sequence[str]) -> list[str]:
    """The words of texts that keys are made of.

    Raises:
      UserError: if there are too few to tell keys apart.
    """
    words = sorted({word for text in texts for word in _WORD.findall(text)})
    if len(words) < 2:
        raise UserError(
            f"retrieval documents need texts with at least 2 words of 4 to 9 letters, found {len(words)}; "
            "give longer texts"
        )
    return words


def repetitions(texts: Sequence[str], characters: int, seed: int) -> Iterator[Document]:
    """Words and numbers in no order, told again in the same one: what to copy from before is all that can be learned.

    Small models come to look things up in such documents first, and sooner than in any others.

    Args:
      texts: where the words are from; held-out text does not belong here.
      characters: documents are made until they have so many together.
      seed: of the draws.
    """
    words = vocabulary(texts)

    def make(rng: random.Random) -> str:
        count = rng.randint(_FEWEST_REPEATED, _REPEATED)
        told = "".join(f" {rng.choice(words) if rng.random() < _WORDS else _number(rng)}" for _ in range(count))
        return told * max(2, -(-_REPETITION // len(told)))

    return _documents("repetition", make, characters, seed)


def documents(texts: Sequence[str], characters: int, seed: int) -> Iterator[Document]:
    """Retrieval documents around passages of `texts`; the same arguments give the same documents.

    Args:
      texts: what the facts are hidden in; held-out text does not belong here.
      characters: documents are made until they have so many together.
      seed: of the draws.
    """
    words = vocabulary(texts)
    return _documents("retrieval", lambda rng: _document(texts, words, rng), characters, seed)


def _documents(name: str, make: Callable[[random.Random], str], characters: int, seed: int) -> Iterator[Document]:
    rng, made, number = random.Random(seed), 0, 0
    while made < characters:
        text = make(rng)
        yield Document(f"{name}/{number:06}.txt", text)
        made, number = made + len(text), number + 1


def _document(texts: Sequence[str], words: Sequence[str], rng: random.Random) -> str:
    size = rng.randint(_SHORTEST, _LONGEST)
    return _list(words, size, rng) if rng.random() < _LISTS else _questions(texts, words, size, rng)


def _list(words: Sequence[str], size: int, rng: random.Random) -> str:
    """Facts in short, then again in other orders."""
    lines = [fact.line for fact in _draw(words, rng.randint(_FEWEST_LISTED, _LISTED), rng)]
    times = max(2, size // 2 // sum(map(len, lines)))  # keys and numbers take twice the tokens of other text
    return "".join(line for _ in range(times) for line in rng.sample(lines, len(lines)))


def _questions(texts: Sequence[str], words: Sequence[str], size: int, rng: random.Random) -> str:
    """Facts among lines of text, then questions about them."""
    facts = _draw(words, rng.randint(1, _FACTS), rng)
    told = [f"{fact.sentence}\n" for fact in facts]
    questions = "".join(f"{fact.question}{fact.answer}\n" for fact in rng.sample(facts, len(facts)))
    again = told if rng.random() < _TOLD_TWICE else []
    introduction = f"{INTRODUCTIONS[len(facts) > 1]}\n" if rng.random() < _INTRODUCED else ""
    taken = sum(map(len, (*told, *again, questions, introduction)))
    lines = _passage(rng.choice(texts), max(1, size - taken), rng)
    for sentence in (*told, *again):  # told again: more values that can be known, in few tokens
        lines.insert(rng.randint(0, len(lines)), sentence)
    text = "".join(lines)
    if rng.random() < _IN_ONE_LINE:
        text = " ".join(text.split()) + "\n"
    return f"{introduction}{text}{questions}"


def _draw(words: Sequence[str], count: int, rng: random.Random) -> list[Fact]:
    """Facts with different keys, `count` of them unless keys are drawn twice."""
    return list({fact.key: fact for fact in (draw_fact(words, rng) for _ in range(count))}.values())


def _passage(text: str, characters: int, rng: random.Random) -> list[str]:
    """Whole lines from a random place of a text, `characters` long together or a little more; at most twice that."""
    start = text.rfind("\n", 0, rng.randrange(len(text))) + 1
    end = text.find("\n", start + characters, start + 2 * characters)
    passage = text[start : start + 2 * characters] if end < 0 else text[start : end + 1]
    return (passage if passage.endswith("\n") else f"{passage}\n").splitlines(keepends=True)
