"""Tokens made of other tokens: several one after the other, and some of the documents of one."""

from bisect import bisect_right
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from rnope_jax.data.store import Tokens


def joined(sources: Sequence[Tokens]) -> Tokens:
    """Tokens of one or several sources as one."""
    return sources[0] if len(sources) == 1 else Joined(sources)


class Joined:
    """Tokens of several sources, one after the other (a `Tokens`)."""

    def __init__(self, sources: Sequence[Tokens]):
        self.sources = tuple(sources)
        self._places = [0, *np.cumsum([len(source) for source in sources]).tolist()]
        self._documents = [0, *np.cumsum([len(source.starts) for source in sources]).tolist()]

    def __len__(self) -> int:
        return int(self._places[-1])

    @property
    def where(self) -> str:
        return ", ".join(source.where for source in self.sources)

    @cached_property
    def starts(self) -> np.ndarray:
        places = self._places[:-1]
        return np.concatenate([source.starts + place for source, place in zip(self.sources, places, strict=True)])

    def read(self, first: int, stop: int) -> np.ndarray:
        pieces = self._pieces(first, stop)
        return _joined([source.read(a, b) for source, a, b in pieces], np.int32)

    def counted(self, first: int, stop: int) -> np.ndarray | None:
        found = [(source.counted(a, b), b - a) for source, a, b in self._pieces(first, stop)]
        if all(mask is None for mask, _ in found):
            return None
        return _joined([np.ones(length, bool) if mask is None else mask for mask, length in found], bool)

    def _pieces(self, first: int, stop: int) -> list[tuple[Tokens, int, int]]:
        made = []
        number = bisect_right(self._places, first) - 1
        while first < stop:
            place, end = self._places[number : number + 2]
            if end > first:  # not an empty source
                made.append((self.sources[number], first - place, min(stop, end) - place))
            first, number = max(first, end), number + 1
        return made

    def name(self, document: int) -> str:
        number = bisect_right(self._documents, document) - 1
        return self.sources[number].name(document - self._documents[number])

    @property
    def fingerprint(self) -> dict[str, Any]:
        made = [source.fingerprint for source in self.sources]
        files = {
            f"{number}/{name}": checksum for number, item in enumerate(made) for name, checksum in item["files"].items()
        }
        known = [item["tokenizer"] for item in made if "tokenizer" in item]
        return {
            "documents": sum(item["documents"] for item in made),
            "tokens": len(self),
            **({"tokenizer": known[0]} if known else {}),
            "files": files,
        }

    @property
    def text_bytes(self) -> int | None:
        sizes = [source.text_bytes for source in self.sources]
        known = [size for size in sizes if size is not None]
        return sum(known) if len(known) == len(sizes) else None


class Selected:
    """Some documents of a source, or parts of them (a `Tokens`).

    Args:
      source: where they are.
      documents: their numbers, int64, ascending.
      first: where each begins in the source; where the document itself begins, or after it.
      stop: where each ends.
      what: told in messages and in the fingerprint.
    """

    def __init__(
        self, source: Tokens, documents: np.ndarray, first: np.ndarray, stop: np.ndarray, what: dict[str, Any]
    ):
        self.source, self.documents, self.what = source, documents, what
        self._text_bytes: int | None = None
        places = np.concatenate([[0], np.cumsum(stop - first)]).astype(np.int64)
        self.starts = places[:-1]
        self._length = int(places[-1])
        # What lies together is read together.
        begins = np.flatnonzero(np.concatenate([[True], first[1:] != stop[:-1]]))
        self._ranges = self.starts[begins]
        self._sources = first[begins]

    def __len__(self) -> int:
        return self._length

    @property
    def where(self) -> str:
        return self.source.where

    def read(self, first: int, stop: int) -> np.ndarray:
        return _joined([self.source.read(a, b) for a, b in self._pieces(first, stop)], np.int32)

    def counted(self, first: int, stop: int) -> np.ndarray | None:
        found = [self.source.counted(a, b) for a, b in self._pieces(first, stop)]
        return None if any(mask is None for mask in found) or not found else _joined(found, bool)

    def _pieces(self, first: int, stop: int) -> list[tuple[int, int]]:
        made = []
        number = int(np.searchsorted(self._ranges, first, side="right")) - 1
        while first < stop:
            end = int(self._ranges[number + 1]) if number + 1 < len(self._ranges) else self._length
            shift = int(self._sources[number] - self._ranges[number])
            made.append((first + shift, min(stop, end) + shift))
            first, number = end, number + 1
        return made

    def name(self, document: int) -> str:
        return self.source.name(int(self.documents[document]))

    @property
    def fingerprint(self) -> dict[str, Any]:
        return {**self.source.fingerprint, "documents": len(self.documents), "tokens": len(self), **self.what}

    @property
    def text_bytes(self) -> int | None:
        return self._text_bytes

    def set_text_bytes(self, size: int) -> None:
        """Tells how much text it stands for, once that is known."""
        self._text_bytes = size


def _joined(arrays: Sequence[Any], dtype: Any) -> np.ndarray:
    if len(arrays) == 1:
        return np.asarray(arrays[0])
    return np.concatenate([np.zeros(0, dtype), *arrays])
