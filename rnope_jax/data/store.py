"""Token files: the documents of a corpus as one array of tokens on disk, with an index.

STORE/tokens.bin    token ids, little endian, 16 or 32 bits; a document is BOS, its text, EOS
STORE/starts.npy    where each document starts
STORE/names.txt     name of each document, a line each
STORE/index.json    counts, type, checksum
"""

import hashlib
import io
import json
import lzma
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from rnope_jax.data.sources import Document
from rnope_jax.data.tokenizer import Tokenizer
from rnope_jax.errors import UserError
from rnope_jax.files import make_directory

#: Largest text for which `xz -9` is run, in bytes: it takes about a second per megabyte.
_XZ_LIMIT = 64 << 20

#: Documents that are tokenized together.
_GROUP = 64


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
            size = (directory / "tokens.bin").stat().st_size
        except (OSError, EOFError, ValueError, TypeError) as error:
            raise UserError(
                f"{directory} is not a complete token store ({error}); delete it to have it made again"
            ) from error
        if size != self.index.tokens * np.dtype(self.index.dtype).itemsize:
            raise UserError(
                f"{directory}/tokens.bin has {size} bytes, not those of {self.index.tokens} tokens; delete {directory}"
            )

    def __len__(self) -> int:
        return self.index.tokens

    @cached_property
    def tokens(self) -> np.ndarray:
        """All tokens, mapped from disk."""
        return np.memmap(self.directory / "tokens.bin", np.dtype(self.index.dtype), mode="r")

    def names(self) -> list[str]:
        """Name of each document."""
        return (self.directory / "names.txt").read_bytes().decode("utf-8").split("\n")[:-1]


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
        names = "".join(document.name.replace("\n", " ") + "\n" for document in documents)
        (target / "names.txt").write_text(names, encoding="utf-8")
        # Through memory: on a full disk np.save raises an error that does not say so.
        buffer = io.BytesIO()
        np.save(buffer, np.array(starts, np.int64), allow_pickle=False)
        (target / "starts.npy").write_bytes(buffer.getvalue())
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
