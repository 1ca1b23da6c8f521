"""Which reader a file has, by the end of its name."""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from rnope_jax.data.formats import array_record, json_lines, parquet, text
from rnope_jax.data.formats.compressed import GZIP, ZSTD
from rnope_jax.data.formats.item import Item, Limits


class Format(Protocol):
    """A way to read files."""

    def units(self, path: Path, size: int, target: int, limits: Limits) -> list[tuple[int, int]]:
        """Parts that can be read on their own, each of about `target` bytes, as pairs that `items` understands."""
        ...

    def items(self, path: Path, first: int, stop: int, limits: Limits) -> Iterator[Item]:
        """What is in such a part, in order; what cannot be read is among it."""
        ...


_COMPRESSED = (*GZIP, *ZSTD)
_LINES = (".jsonl", ".ndjson", ".json")
_TEXTS = (".txt", ".md", ".rst", ".py")

_RECORDS: dict[str, Format] = {
    **{name + end: json_lines for name in _LINES for end in ("", *_COMPRESSED)},
    ".parquet": parquet,
    ".arrayrecord": array_record,
    ".array_record": array_record,
}

#: Files that are taken from directories. A file x.json there is rather a description of the others.
SUFFIXES: tuple[str, ...] = (
    *(name + end for name in _TEXTS for end in ("", *_COMPRESSED)),
    *(end for end in _RECORDS if end != ".json"),
)


def format_of(path: Path) -> Format:
    """The reader of a file; a file of any other name is a text."""
    return next((found for end, found in _RECORDS.items() if path.name.endswith(end)), text)


def is_plain_text(path: Path) -> bool:
    """Whether a file is one text, not compressed."""
    return not path.name.endswith((*_RECORDS, *_COMPRESSED))
