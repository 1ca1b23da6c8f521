"""Small texts and the stores made of them."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

from rnope_jax.data import Tokenizer, TokenStore, store, tokenizer
from rnope_jax.data.sources import Document

WORDS = ("river", "stone", "light", "über", "naïve", "雨", "🙂", "zero", "one", "two", "the", "a")


def texts(count: int, seed: int = 0, lines: int = 6) -> list[str]:
    """Texts of different lengths."""
    rng = np.random.default_rng(seed)
    return ["".join(" ".join(rng.choice(WORDS, 7)) + "\n" for _ in range(rng.integers(1, lines))) for _ in range(count)]


def documents(count: int, seed: int = 0) -> list[Document]:
    return [Document(f"folder/{i}.txt", text) for i, text in enumerate(texts(count, seed))]


@cache
def small_tokenizer() -> Tokenizer:
    return tokenizer.train(texts(50), 300)


def make_store(directory: Path, docs: Sequence[Document] | None = None, count: int = 12) -> TokenStore:
    return store.write(directory / "store", docs or documents(count), small_tokenizer())


def write_corpus(directory: Path, count: int = 20, seed: int = 0) -> Path:
    """A directory of text files."""
    directory.mkdir(parents=True, exist_ok=True)
    for i, text in enumerate(texts(count, seed)):
        (directory / f"{i:03}.txt").write_text(text, encoding="utf-8")
    return directory
