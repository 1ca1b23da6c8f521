"""Token files of other programs, read where they lie.

- Megatron-LM: PREFIX.bin with PREFIX.idx; documents as the index has them.
- llm.c and modded-nanogpt: a .bin file with a header of 256 numbers of 32 bits.
- nanoGPT: a .bin file of 16-bit numbers (32-bit where the tokenizer has more than 65,536 tokens).
- OLMo: a .npy file that is such numbers without a header, or a true .npy file of one dimension.

The last three have no index: a document ends with the tokenizer's end token, or begins with its start or
end token where the file itself does. They are read once when a run begins, and what is found is kept in the
run directory:

INDEX/starts.bin    where each document starts, 64 bits each
INDEX/tokens.crc    checksums of blocks (`shards.py`), so what changes later is noticed when it is read
INDEX/index.json    type, counts, checksum of the file
"""

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rnope_jax.data import seal
from rnope_jax.data.shards import Checksums, Shard
from rnope_jax.data.tokenizer import Tokenizer
from rnope_jax.errors import UserError
from rnope_jax.files import make_directory

_MEGATRON = b"MMIDIDX\x00\x00"
_MEGATRON_TYPES = {1: "|u1", 2: "|i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}

#: Magic number and version of llm.c's headers, and the type of the tokens that follow.
_LLM_C = {(20240520, 1): "<u2", (20240801, 7): "<u4"}
_LLM_C_HEADER = 256 * 4

#: Bytes that are read at once.
_READ = 1 << 24


@dataclass(frozen=True)
class Layout:
    """Where the tokens are in a file."""

    path: Path
    dtype: str
    offset: int
    """Bytes before the first token."""
    tokens: int
    starts: np.ndarray | None
    """Where documents start, int64; None where the tokens themselves tell."""


def is_token_file(path: Path) -> bool:
    """Whether this names a token file of another program."""
    return path.suffix in (".bin", ".npy", ".idx") or (not path.exists() and _with(path, ".idx").exists())


def check(path: Path) -> None:
    """Looks at the headers.

    Raises:
      UserError: if it is missing, or not what its name says.
    """
    layout(path, "<u2")


def layout(path: Path, raw: str) -> Layout:
    """Finds the tokens of a file.

    Args:
      path: the file; for Megatron's, .bin, .idx or both without the end.
      raw: type of the tokens where no header tells.

    Raises:
      UserError: if it cannot be read, or its header or index does not fit it.
    """
    try:
        prefix = path.with_suffix("") if path.suffix in (".bin", ".idx") else path
        if _with(prefix, ".idx").exists():
            return _megatron(_with(prefix, ".bin"), _with(prefix, ".idx"))
        size = path.stat().st_size
        with path.open("rb") as file:
            begins = file.read(_LLM_C_HEADER)
        if path.suffix == ".npy":
            return _npy(path, size, begins, raw)
        return _bin(path, size, begins, raw)
    except OSError as error:
        raise UserError(f"{error.filename or path}: {error.strerror}") from error


def _bin(path: Path, size: int, begins: bytes, raw: str) -> Layout:
    if len(begins) < _LLM_C_HEADER or begins[:4] not in {struct.pack("<i", magic) for magic, _ in _LLM_C}:
        return _raw(path, size, raw)
    magic, version, tokens = struct.unpack("<3i", begins[:12])
    if (magic, version) not in _LLM_C:
        raise UserError(f"{path} has version {version} of llm.c's header {magic}, which is not known")
    dtype = _LLM_C[magic, version]
    wanted = _LLM_C_HEADER + tokens * np.dtype(dtype).itemsize
    if size != wanted:
        raise UserError(f"{path} has {size} bytes, its header tells of {tokens} tokens, which are {wanted}")
    return Layout(path, dtype, _LLM_C_HEADER, tokens, None)


def _npy(path: Path, size: int, begins: bytes, raw: str) -> Layout:
    if not begins.startswith(np.lib.format.MAGIC_PREFIX):
        return _raw(path, size, raw)
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if array.ndim != 1 or array.dtype.kind not in "ui" or array.dtype.byteorder == ">":
        raise UserError(f"{path} holds {array.dtype} {list(array.shape)}, not one row of whole numbers")
    assert isinstance(array, np.memmap)
    return Layout(path, array.dtype.str, int(array.offset), len(array), None)


def _raw(path: Path, size: int, dtype: str) -> Layout:
    width = np.dtype(dtype).itemsize
    if size % width:
        raise UserError(f"{path} has {size} bytes, which are no tokens of {width} bytes")
    return Layout(path, dtype, 0, size // width, None)


def _megatron(path: Path, index: Path) -> Layout:
    data = index.read_bytes()
    head = len(_MEGATRON) + 25
    if not data.startswith(_MEGATRON) or len(data) < head:
        raise UserError(f"{index} is not an index of Megatron-LM: it begins with {data[:9]!r}")
    version, code, sequences, documents = struct.unpack("<QBQQ", data[len(_MEGATRON) : head])
    if version != 1 or code not in _MEGATRON_TYPES:
        raise UserError(f"{index}: version {version}, type {code} of tokens are not known")
    wanted = head + 12 * sequences + 8 * documents
    if len(data) not in (wanted, wanted + sequences):  # a byte for each sequence follows in multimodal files
        raise UserError(f"{index} has {len(data)} bytes, not those of {sequences} sequences in {documents} documents")
    dtype = np.dtype(_MEGATRON_TYPES[code])
    lengths = np.frombuffer(data, "<i4", sequences, head).astype(np.int64)
    pointers = np.frombuffer(data, "<i8", sequences, head + 4 * sequences)
    first = np.frombuffer(data, "<i8", documents, head + 12 * sequences)
    places = np.concatenate([[0], np.cumsum(lengths)])
    if (lengths < 0).any() or not np.array_equal(pointers, places[:-1] * dtype.itemsize):
        raise UserError(f"{index}: its sequences do not lie one after the other")
    if (np.diff(first) < 0).any() or (len(first) and not 0 <= first[0] <= first[-1] <= sequences):
        raise UserError(f"{index}: its documents are not in order")
    size, tokens = path.stat().st_size, int(places[-1])
    if size != tokens * dtype.itemsize:
        raise UserError(f"{path} has {size} bytes, not those of the {tokens} tokens that {index.name} tells of")
    starts = np.unique(np.concatenate([[0], places[first]]))  # documents without tokens are none
    return Layout(path, dtype.str, 0, tokens, starts[starts < tokens])


def make_index(path: Path, directory: Path, tokenizer: Tokenizer) -> None:
    """Reads a token file once and writes what `FileTokens` needs, whole or not at all.

    Raises:
      UserError: if the file is damaged or empty, or its tokens cannot be those of the tokenizer.
    """
    found = layout(path, "<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4")
    if not found.tokens:
        raise UserError(f"{path} holds no tokens")
    checksums, starts, place = Checksums(), [np.zeros(1, np.int64)], 0
    ends: tuple[int, ...] = (tokenizer.eos_id,)
    leading = False
    for data in _pieces(found, checksums):
        tokens = np.frombuffer(data, found.dtype)
        outside = np.flatnonzero((tokens < 0) | (tokens >= tokenizer.vocab_size))
        if len(outside):
            raise UserError(
                f"{path}: token {tokens[outside[0]]} at place {place + outside[0]} is not among the "
                f"{tokenizer.vocab_size} of the tokenizer; it was made with another one (data.tokenizer)"
            )
        if found.starts is None:
            if not place and tokens[0] in (tokenizer.bos_id, tokenizer.eos_id):
                ends, leading = (int(tokens[0]),), True
            marks = np.flatnonzero(np.isin(tokens, ends)) + place
            starts.append(marks if leading else marks + 1)
        place += len(tokens)
    known = found.starts if found.starts is not None else np.unique(np.concatenate(starts))
    known = known[known < found.tokens].astype("<i8")
    blocks = checksums.blocks().tobytes()
    with make_directory(directory) as target:
        (target / "starts.bin").write_bytes(known.tobytes())
        (target / "tokens.crc").write_bytes(blocks)
        content = {
            "path": str(found.path.absolute()),
            "dtype": found.dtype,
            "offset": found.offset,
            "tokens": found.tokens,
            "documents": len(known),
            "sha256_of_file": checksums.sha256.hexdigest(),
            "checksums_sha256": hashlib.sha256(blocks).hexdigest(),
            "starts_sha256": hashlib.sha256(known.tobytes()).hexdigest(),
            "tokenizer": tokenizer.fingerprint,
        }
        (target / "index.json").write_text(seal.text(content))


def _pieces(found: Layout, checksums: Checksums) -> Iterator[bytes]:
    with found.path.open("rb") as file:
        checksums.update(file.read(found.offset))
        while data := file.read(_READ):
            checksums.update(data)
            yield data


class FileTokens:
    """A token file of another program, by its index in the run directory (a `Tokens`).

    Raises:
      UserError: if the file has another size than it had, or the index is damaged.
    """

    def __init__(self, directory: Path):
        self.index = index = seal.read(directory / "index.json")
        self.path = Path(index["path"])
        self._shard = Shard(
            self.path,
            index["tokens"],
            index["dtype"],
            directory / "tokens.crc",
            index["checksums_sha256"],
            index["offset"],
        )
        self._shard.check()
        starts = (directory / "starts.bin").read_bytes()
        if hashlib.sha256(starts).hexdigest() != index["starts_sha256"]:
            raise UserError(
                f"{directory}/starts.bin is not as it was written; delete {directory} to have it made again"
            )
        self.starts = np.frombuffer(starts, "<i8")

    def __len__(self) -> int:
        return int(self.index["tokens"])

    @property
    def where(self) -> str:
        return str(self.path)

    def read(self, first: int, stop: int) -> np.ndarray:
        return self._shard.read(first, stop).astype(np.int32)

    def counted(self, first: int, stop: int) -> np.ndarray | None:
        return None

    def name(self, document: int) -> str:
        return f"{self.path}, document {document + 1}"

    @property
    def fingerprint(self) -> dict[str, Any]:
        return {
            "documents": self.index["documents"],
            "tokens": self.index["tokens"],
            "tokenizer": self.index["tokenizer"],
            "files": {self.path.name: self.index["sha256_of_file"]},
        }

    @property
    def text_bytes(self) -> int | None:
        return None


def _with(path: Path, end: str) -> Path:
    return path.with_name(path.name + end)
