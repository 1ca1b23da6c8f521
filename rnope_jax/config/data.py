"""What it is trained on: text and tokenizer."""

from collections.abc import Iterator
from dataclasses import dataclass

from rnope_jax.schema import Problem, Schema

#: Name in `DataConfig.corpus` that stands for the sources of the running Python's standard library.
STDLIB = "stdlib"


@dataclass(frozen=True, kw_only=True)
class DataConfig(Schema):
    """Text and how it becomes tokens."""

    corpus: tuple[str, ...] = (STDLIB,)
    """Text files and directories; "stdlib" stands for the sources of the running Python's standard library."""
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
