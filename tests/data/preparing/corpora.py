"""Corpora to be prepared, and what they become."""

import hashlib
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import tokenizers
from tokenizers import AddedToken

from rnope_jax.data import Tokenizer, preparing, tokenizer
from rnope_jax.data.prepared import PreparedTokens
from rnope_jax.data.preparing import Options
from tests.data.corpora import small_tokenizer, texts

TURNS = (
    "<|START_OF_TURN_TOKEN|>",
    "<|END_OF_TURN_TOKEN|>",
    "<|SYSTEM_TOKEN|>",
    "<|USER_TOKEN|>",
    "<|CHATBOT_TOKEN|>",
)


def write_lines(path: Path, records: Sequence[object]) -> Path:
    """JSON lines; bytes are written as they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = [record if isinstance(record, bytes) else json.dumps(record).encode() for record in records]
    path.write_bytes(b"".join(line + b"\n" for line in data))
    return path


def prepared(
    out: Path, *paths: Path, made_with: Tokenizer | None = None, workers: int = 1, **options
) -> PreparedTokens:
    """Prepares files and opens what they became."""
    made_with = made_with or small_tokenizer()
    preparing.prepare([str(path) for path in paths], out, made_with, Options(**options), workers=workers)
    return PreparedTokens(out)


def documents(tokens: PreparedTokens) -> list[list[int]]:
    """Tokens of each document."""
    ends = [*tokens.starts[1:], len(tokens)]
    return [tokens.read(int(a), int(b)).tolist() for a, b in zip(tokens.starts, ends, strict=True)]


def expected(found: Sequence[str]) -> list[list[int]]:
    """What texts become."""
    made = small_tokenizer()
    return [[made.bos_id, *made.encode(text), made.eos_id] for text in found]


def tree(out: Path) -> dict[str, str]:
    """Checksum of each file of a directory."""
    files = [path for path in out.rglob("*") if path.is_file()]
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@cache
def chat_tokenizer() -> Tokenizer:
    """One that has Cohere's turn tokens."""
    made = tokenizers.Tokenizer.from_str(tokenizer.train(texts(50), 300).backend.to_str())
    made.add_special_tokens([AddedToken(name, special=True) for name in TURNS])
    return Tokenizer(made, "<|bos|>", "<|END_OF_TURN_TOKEN|>")
