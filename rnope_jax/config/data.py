"""What it is trained on: text and tokenizer, and the sources of a mixture."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from rnope_jax.schema import Problem, Schema

#: Name in `DataConfig.corpus` that stands for the sources of the running Python's standard library.
STDLIB = "stdlib"

#: How documents fill rows.
Packing = Literal["concat", "best_fit"]


@dataclass(frozen=True, kw_only=True)
class DataConfig(Schema):
    """Text and how it becomes tokens."""

    corpus: tuple[str, ...] = (STDLIB,)
    """Text, records, prepared data, token files; "stdlib" stands for the running Python's standard library."""
    suffixes: tuple[str, ...] = (".txt", ".md", ".rst", ".py")
    """Files taken from directories, by the end of their names."""
    tokenizer: str | None = None
    """A tokenizer.json; None trains a byte-level BPE of model.vocab_size on the corpus and keeps it with the run."""
    bos_token: str | None = None
    """Token that starts a document; None takes it from the tokenizer's own files."""
    eos_token: str | None = None
    """Token that ends a document; None takes it from the tokenizer's own files."""
    held_out_fraction: float = 0.05
    """Share of the files (of the text, where there is one file) that is kept for evaluation."""

    def path(self) -> str:
        return "data"

    def problems(self) -> Iterator[Problem]:
        if not self.corpus:
            yield "corpus", f"needs at least one file, directory or {STDLIB!r}"
        if not self.suffixes:
            yield "suffixes", 'needs at least one suffix, for example ".txt"'
        if not 0 < self.held_out_fraction < 1:
            yield "held_out_fraction", "must be between 0 and 1, both excluded"


@dataclass(frozen=True, kw_only=True)
class SourceConfig(Schema):
    """A part of what a stage is trained on."""

    name: str
    """Shown in reports."""
    weight: float = 1.0
    """Share of the stage's tokens, relative to the weights of the other sources."""
    corpus: tuple[str, ...] = ()
    """Files and directories; empty takes data.corpus."""
    packing: Packing = "concat"
    """How documents fill rows: concat cuts their concatenation, best_fit keeps every start of a document, and pads."""
    sequence_length: int | None = None
    """Most tokens that see each other: a row of the stage holds several sequences. None takes the stage's."""
    min_tokens: int = 2
    """Shorter documents are left out."""
    max_tokens: int | None = None
    """Longer documents are left out; None leaves out none."""

    def path(self) -> str:
        return f"stages[].mixture[{self.name!r}]"

    def problems(self) -> Iterator[Problem]:
        if not self.name:
            yield "name", "must not be empty"
        if not 0 < self.weight < float("inf"):
            yield "weight", "must be positive; leave out what is not to be read"
        if self.sequence_length is not None and self.sequence_length < 1:
            yield "sequence_length", "must be at least 1, or None"
        if self.min_tokens < 2:
            yield "min_tokens", "must be at least 2: nothing is predicted in a document of one token"
        if self.max_tokens is not None and self.max_tokens < self.min_tokens:
            yield "max_tokens", f"must be at least min_tokens = {self.min_tokens}, or None"
