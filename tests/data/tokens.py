"""Tokens in memory, for tests of packing and mixtures."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass
class Memory:
    """Documents of given lengths; every token is another number, unless `vocab` says how many there are."""

    starts: np.ndarray
    tokens: np.ndarray
    mask: np.ndarray | None = None
    label: str = "memory"

    @classmethod
    def of(cls, lengths: Sequence[int], *, vocab: int | None = None, seed: int = 0, label: str = "memory") -> "Memory":
        lengths = np.asarray(lengths, np.int64)
        total = int(lengths.sum())
        tokens = np.arange(1, total + 1)
        if vocab is not None:
            tokens = np.random.default_rng(seed).integers(1, vocab, total)
        return cls(np.cumsum(lengths) - lengths, tokens.astype(np.int32), label=label)

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def where(self) -> str:
        return self.label

    def read(self, first: int, stop: int) -> np.ndarray:
        assert 0 <= first < stop <= len(self)
        return self.tokens[first:stop]

    def counted(self, first: int, stop: int) -> np.ndarray | None:
        return None if self.mask is None else self.mask[first:stop]

    def name(self, document: int) -> str:
        return f"{self.label}:{document}"

    @property
    def fingerprint(self) -> dict[str, Any]:
        return {"documents": len(self.starts), "tokens": len(self), "files": {}}

    @property
    def text_bytes(self) -> int | None:
        return None

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.starts, append=len(self))


def uneven(count: int, seed: int = 0, most: int = 60) -> list[int]:
    """Lengths of documents: many short ones, a few long ones."""
    return np.clip(np.random.default_rng(seed).pareto(1.1, count) * 6, 1, most).astype(int).tolist()
