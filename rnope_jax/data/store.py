"""Tokens on disk: what every source of them offers (`Tokens`), and the store that a run makes of its own text.

STORE/tokens.bin    token ids, little endian, 16 or 32 bits; a document is BOS, its text, EOS
STORE/starts.npy    where each document starts
STORE/digests.npy   the digest of each document
STORE/names.txt     name of each document, a line each
STORE/index.json    counts, type, checksum
"""

import hashlib
import io
import json
import lzma
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from rnope_jax.data.digests import digest
from rnope_jax.data.sources import Document
from rnope_jax.data.tokenizer import Tokenizer
from rnope_jax.errors import UserError
from rnope_jax.files import make_directory, read_range

#: Largest text for which `xz -9` is run, in bytes: it takes about a second per megabyte.
_XZ_LIMIT = 64 << 20

#: Documents that are tokenized together.
_GROUP = 64


class Tokens(Protocol):
    """Documents one after the other as one long row of tokens, wherever and in however many files they lie.

    Reading is cheap at any place; two objects of the same files give the same.
    """

    def __len__(self) -> int:
        """Number of tokens."""
        ...

    @property
    def where(self) -> str:
        """What to call it in messages: a path."""
        ...

    @property
    def starts(self) -> np.ndarray:
        """Where each document starts, int64 [documents], ascending from 0; it ends where the next one starts."""
        ...

    def read(self, first: int, stop: int) -> np.ndarray:
        """Tokens first to stop, int32 [stop - first].

        Raises:
          UserError: if the files do not hold what they held when they were made.
        """
        ...

    def counted(self, first: int, stop: int) -> np.ndarray | None:
        """Which tokens are to be predicted, bool [stop - first]; None where all are.

        False for prompts of question and answer. A document's first token is never predicted, whatever this says.
        """
        ...

    def name(self, document: int) -> str:
        """Where a document comes from, such as "corpus/a.jsonl:17"."""
        ...

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What the tokens are, for JSON: `documents`, `tokens`, `files` (name to checksum) and, where it is known,
        `tokenizer` (checksum). Equal where and only where the tokens are; where they differ, it says in what."""
        ...

    @property
    def text_bytes(self) -> int | None:
        """UTF-8 bytes of the text that the counted tokens stand for; None where it is not known."""
        ...


def predicted(tokens: Tokens) -> int:
    """How many tokens are predicted: those that count, less the first of each document."""
    flags = tokens.counted(0, len(tokens))
    return len(tokens) - len(tokens.starts) if flags is None else int(flags.sum() - flags[tokens.starts].sum())


@dataclass(frozen=True)
class Index:
    """What is known of a store without reading its tokens."""

    dtype: str
    tokens: int
    documents: int
    text_bytes: int
    """UTF-8 bytes of all documents."""
    xz_bytes: int | None
    """Size of all documents after `xz -9`; None where it was not asked for or the text is too long."""
    sha256: str
    """Of tokens.bin."""


class TokenStore:
    """A corpus as tokens."""

    def __init__(self, directory: Path):
        self.directory = directory
        try:
            self.index = Index(**json.loads((directory / "index.json").read_text()))
            self.starts = np.load(directory / "starts.npy", allow_pickle=False)
            self._digests = np.load(directory / "digests.npy", allow_pickle=False)
            size = (directory / "tokens.bin").stat().st_size
        except (OSError, EOFError, ValueError, TypeError) as error:
            raise UserError(
                f"{directory} is not a complete token store ({error}); delete it to have it made again"
            ) from error
        if size != self.index.tokens * np.dtype(self.index.dtype).itemsize:
            raise UserError(
                f"{directory}/tokens.bin has {size} bytes, not those of {self.index.tokens} tokens; "
                f"delete {directory} to have it made again"
            )

    def __len__(self) -> int:
        return self.index.tokens

    @cached_property
    def tokens(self) -> np.ndarray:
        """All tokens, mapped from disk."""
        return np.memmap(self.directory / "tokens.bin", np.dtype(self.index.dtype), mode="r")

    @property
    def where(self) -> str:
        return str(self.directory)

    def digests(self) -> np.ndarray:
        """Number for the contents of each document, uint64 [documents]."""
        return self._digests

    def verify(self) -> None:
        """Compares the tokens with their checksum.

        Raises:
          UserError: if they are not those that were written.
        """
        with (self.directory / "tokens.bin").open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != self.index.sha256:
            raise UserError(
                f"{self.directory}/tokens.bin is damaged: its checksum is not the one it was written with; "
                f"restore it, or delete {self.directory} to have it made again from the same text"
            )

    def read(self, first: int, stop: int) -> np.ndarray:
        # Not through `tokens`: a mapped file that is cut short or out of reach kills the process that looks at it.
        dtype = np.dtype(self.index.dtype)
        return np.frombuffer(self._bytes(first * dtype.itemsize, stop * dtype.itemsize), dtype).astype(np.int32)

    def _bytes(self, first: int, stop: int) -> bytes:
        data = read_range(self._handle, first, stop)
        if len(data) < stop - first:
            raise UserError(f"{self.directory}/tokens.bin ended early, at byte {first + len(data)}; restore it")
        return data

    @cached_property
    def _handle(self) -> int:
        return os.open(self.directory / "tokens.bin", os.O_RDONLY)

    def __del__(self) -> None:
        if "_handle" in self.__dict__:
            os.close(self._handle)

    def counted(self, first: int, stop: int) -> np.ndarray | None:
        return None

    def name(self, document: int) -> str:
        return self._names[document]

    def names(self) -> list[str]:
        """Name of each document."""
        return list(self._names)

    @cached_property
    def _names(self) -> list[str]:
        return (self.directory / "names.txt").read_bytes().decode("utf-8").split("\n")[:-1]

    @property
    def fingerprint(self) -> dict[str, Any]:
        return {
            "documents": self.index.documents,
            "tokens": self.index.tokens,
            "files": {"tokens.bin": self.index.sha256},
        }

    @property
    def text_bytes(self) -> int | None:
        return self.index.text_bytes


def write(
    directory: Path, documents: Sequence[Document], tokenizer: Tokenizer, *, measure_xz: bool = False
) -> TokenStore:
    """Tokenizes documents into a new store, whole or not at all."""
    dtype = np.dtype("<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4")
    starts, total, checksum = [], 0, hashlib.sha256()
    with make_directory(directory) as target:
        with (target / "tokens.bin").open("wb") as file:
            for group in _groups(documents):
                for ids in tokenizer.encode_batch([document.text for document in group]):
                    data = np.array([tokenizer.bos_id, *ids, tokenizer.eos_id], dtype)
                    starts.append(total)
                    total += len(data)
                    checksum.update(data.tobytes())
                    file.write(data.tobytes())
        listed = "".join(document.name.replace("\n", " ") + "\n" for document in documents)
        (target / "names.txt").write_text(listed, encoding="utf-8")
        for name, array in {
            "starts": np.array(starts, np.int64),
            "digests": np.array([digest(document.text) for document in documents], np.uint64),
        }.items():
            # Through memory: on a full disk np.save raises an error that does not say so.
            buffer = io.BytesIO()
            np.save(buffer, array, allow_pickle=False)
            (target / f"{name}.npy").write_bytes(buffer.getvalue())
        size = sum(len(document.text.encode()) for document in documents)
        index = Index(
            dtype=dtype.str,
            tokens=total,
            documents=len(documents),
            text_bytes=size,
            xz_bytes=_xz(documents) if measure_xz and size <= _XZ_LIMIT else None,
            sha256=checksum.hexdigest(),
        )
        (target / "index.json").write_text(json.dumps(asdict(index), indent=2) + "\n")
    return TokenStore(directory)


def _groups(documents: Sequence[Document]) -> list[Sequence[Document]]:
    return [documents[i : i + _GROUP] for i in range(0, len(documents), _GROUP)]


def _xz(documents: Sequence[Document]) -> int:
    compressor = lzma.LZMACompressor(preset=9)
    size = sum(len(compressor.compress(document.text.encode())) for document in documents)
    return size + len(compressor.flush())
