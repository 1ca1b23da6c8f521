"""The commands that the documentation gives, as a shell would read them."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.end_to_end.commands import ROOT

PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))

_BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
_VARIABLE = re.compile(r"[A-Za-z_]\w*=")
_JOINTS = {"&&", "||", "|", ";"}

#: Programs that others start.
_STARTED = {"python", "rnope"}


@dataclass(frozen=True)
class Command:
    """One command of a page."""

    page: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}: {shlex.join(self.words)}"

    @property
    def name(self) -> str:
        """What is run: "rnope evaluate", "train.py", "benchmarks.study", "make"."""
        first, *rest = self.words
        if first == "rnope":
            return f"rnope {rest[0]}"
        if first == "python":
            return rest[1] if rest[0] == "-m" else rest[0]
        return first

    @property
    def arguments(self) -> tuple[str, ...]:
        """What it is given; an ellipsis stands for more of the reader's own."""
        first, *rest = self.words
        skipped = {"rnope": 2, "python": 3 if rest[:1] == ["-m"] else 2}.get(first, 1)
        return tuple(word for word in self.words[skipped:] if word != "...")

    @property
    def options(self) -> list[str]:
        """Names of its options."""
        return [word.split("=")[0] for word in self.arguments if re.match(r"--[a-z]", word)]


@cache
def documented() -> tuple[Command, ...]:
    """All commands of all pages; of a program that starts another, both."""
    return tuple(
        Command(page.name, words)
        for page in PAGES
        for block in _BLOCK.findall(page.read_text(encoding="utf-8"))
        for words in _commands(block)
    )


def _commands(block: str) -> Iterator[tuple[str, ...]]:
    # What a variable of a scheduler holds is a number.
    lines, pending = re.sub(r"\$[A-Z_]+", "1", block.replace("\\\n", " ")).splitlines(), ""
    for line in lines:
        pending += line + "\n"
        try:
            words = shlex.split(pending, comments=True)
        except ValueError:  # a quotation that goes on
            continue
        pending = ""
        yield from _divided(words)
    assert not pending, f"a quotation that does not end: {pending}"


def _divided(words: list[str]) -> Iterator[tuple[str, ...]]:
    """The commands of a line, without variables that are set for them and without redirections."""
    found: list[str] = []
    rest = [*words, ";"]
    while rest:
        word = rest.pop(0)
        if word == ">":
            rest.pop(0)
        elif word in _JOINTS:
            if found:
                yield tuple(found)
            found = []
        elif "=$(" in word:  # what a command says becomes a variable
            found = [word.partition("=$(")[2]]
        elif not found and _VARIABLE.match(word):
            continue
        elif found[:2] == ["rnope", "launch"] and word == "--":
            yield (*found, word, *rest[:-1])
            found = ["python"]
        elif word in _STARTED and found:  # `srun python ...`
            yield tuple(found)
            found = [word]
        else:
            found.append(word)


def configuration_stand_in(given: str) -> Path | str:
    """What is parsed in place of a configuration or run of the reader's own."""
    if given.startswith("configs/") and (ROOT / given.partition(":")[0]).exists():
        return given
    if given.startswith("runs/r7b"):
        return "configs/command_r7b.py"
    if given == "CONFIG" or given.startswith("runs/") or given in ("my_config.py", "configs/mine.py"):
        return "configs/quickstart.py"
    raise AssertionError(f"there is no configuration {given}")
