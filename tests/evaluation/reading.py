"""RULER's tasks solved from their prompts alone, and a tokenizer of English."""

import re
from collections import Counter
from functools import cache

from rnope_jax.data import Tokenizer, tokenizer
from rnope_jax.evaluation.ruler import world
from rnope_jax.evaluation.ruler.essay import ESSAY
from rnope_jax.evaluation.ruler.words import WORDS


@cache
def english() -> Tokenizer:
    """A byte-level BPE that makes about as many tokens of prose as large ones do."""
    towns = [world.town(number).document for number in range(40)]
    asked = ["What are all the special magic numbers for mentioned in the provided text? Answer the question"] * 9
    return tokenizer.train([ESSAY, ESSAY, " ".join(WORDS), *towns, *asked, "VAR = 0123456789 abcdef-\n" * 9], 2500)


def solve(task: str, prompt: str) -> list[str]:
    """What the prompt asks for; found without knowing how it was made."""
    if task.startswith("niah"):
        return _needles(prompt)
    return {"vt": _chain, "cwe": _common, "fwe": _frequent, "qa_1": _read, "qa_2": _read}[task](prompt)


def needles(prompt: str) -> list[tuple[str, str, str]]:
    """Kind, key and value of every needle, in order."""
    return re.findall(r"One of the special magic (\w+) for (\S+) is: (\S+)\.", prompt)


def _needles(prompt: str) -> list[str]:
    query = re.search(r"\nWhat (?:is|are all) the special magic \w+ for (.*) mentioned in the provided text\?", prompt)
    keys = re.split(r", and |, ", query[1])
    found = needles(prompt)
    return [value for key in keys for _, own, value in found if own == key]


def _chain(prompt: str) -> list[str]:
    text = prompt[prompt.rindex("Memorize and track") :]
    values: dict[str, str] = {}
    for name, value in re.findall(r"VAR (\w+) = (?:VAR )?(\w+)", text):
        values[name] = values.get(value, value)
    asked = re.search(r"assigned the value (\d+) in the text above", text)[1]
    return [name for name, value in values.items() if value == asked]


def _common(prompt: str) -> list[str]:
    text = prompt[prompt.rindex("Below is a numbered list") :]
    number = int(re.search(r"What are the (\d+) most common", text)[1])
    listed = re.findall(r"\d+\. (\S+)", text.split("\n")[1])
    return [word for word, _ in Counter(listed).most_common(number)]


def _frequent(prompt: str) -> list[str]:
    text = re.search(r"appeared coded words\. (.*)\nQuestion", prompt)[1]
    return [word for word, _ in Counter(text.split()).most_common(4) if word != "..."]


def documents(prompt: str) -> list[str]:
    """The documents of a prompt of question answering."""
    listed = prompt.split("The following are given documents.\n\n")[1].split("\n\nAnswer the question")[0]
    return re.split(r"\n\nDocument \d+:\n|Document 1:\n", listed)[1:]


def _read(prompt: str) -> list[str]:
    """Answers questions about the invented country as a reader would who knows how its documents are worded."""
    question = re.search(r"Question: (.*\?)", prompt)[1]
    town = re.search(r"(?:the town|the founder|people) of (\w+)", question)[1]
    text = "\n".join(documents(prompt))
    founder = re.search(rf"{town} (?:is a town on the river \w+\. It )?was founded (?:in \d+ )?by (\w+ \w+)", text)
    facts = {
        "Who founded": founder and founder[1],
        "In what year": _find(rf"{town}\b.*?founded in (\d+)", text),
        "On which river": _find(rf"{town} is a town on the river (\w+)", text),
        "What are the people": _find(rf"{town}\b.*?known for (?:their|its) (\w+)", text),
        "In which month": _find(rf"{town}\b.*?(?:Every|feasts in) (\w+)", text),
    }
    if founder:
        facts |= {
            "In which place": _find(rf"{founder[1]} was .*?born in (\w+)", text),
            "What was the trade": _find(rf"{founder[1]} was a (\w+)", text),
            "What did the founder": _find(rf"{founder[1]}\b.*?taught (\w+)", text),
        }
    return [answer for start, answer in facts.items() if question.startswith(start)]


def _find(pattern: str, text: str) -> str | None:
    found = re.search(pattern, text)
    return found and found[1]
