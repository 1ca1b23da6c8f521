"""Safetensors files: headers that are believed only after every check, tensors written one by one.

The format (github.com/huggingface/safetensors): eight bytes hold the length of a JSON header, which
names each tensor's type, shape and place; the values follow, without gaps.
"""

import json
import math
import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rnope_jax.errors import UserError
from rnope_jax.interop.untrusted import parse_json, quoted, regular_file
from rnope_jax.weights import DTYPES

#: Names of types in a header.
_CODES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
_TYPES = {code: DTYPES[name] for name, code in _CODES.items()}

#: Longest header that is read; the largest published model of this kind needs a hundredth of it.
_HEADER_LIMIT = 8 * 2**20

_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True)
class Stored:
    """A tensor in a file."""

    file: Path
    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int
    """First byte in the file."""

    def values(self) -> np.ndarray:
        """The values, read from the file as they are used."""
        if not math.prod(self.shape):
            return np.zeros(self.shape, self.dtype)
        count = math.prod(self.shape) * self.dtype.itemsize
        raw = np.memmap(self.file, np.uint8, "r", self.offset, (count,))
        return raw.view(self.dtype).reshape(self.shape)


def read_header(directory: Path, name: str) -> dict[str, Stored]:
    """The tensors of a file in `directory`, by name, after every check that needs no values.

    Raises:
      UserError: naming the file and the fact, if anything about it is not as it must be.
    """
    path = regular_file(directory, name)

    def refuse(fact: str) -> UserError:
        return UserError(f"{path}: {fact}")

    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(_LENGTH.size)
        if len(start) < _LENGTH.size:
            raise refuse(f"{size} bytes are too few for a safetensors file")
        (length,) = _LENGTH.unpack(start)
        if length > _HEADER_LIMIT:
            raise refuse(f"a header of {length} bytes is over the limit of {_HEADER_LIMIT}")
        if length > size - _LENGTH.size:
            raise refuse(f"the header should have {length} bytes, but the file ends after {size}: it is cut short")
        header = parse_json(path, file.read(length))
    if not isinstance(header, dict):
        raise refuse("the header is not a JSON object")
    notes = header.pop("__metadata__", {})
    if not isinstance(notes, dict) or not all(isinstance(value, str) for value in notes.values()):
        raise refuse("__metadata__ must map names to text")
    data = _LENGTH.size + length
    places = sorted(
        (_place(path, name, entry, size - data) for name, entry in header.items()), key=lambda place: place[1:3]
    )
    end = 0
    for name, first, last, _, _ in places:
        if first != end:
            raise refuse(f"tensor {quoted(name)} {'overlaps' if first < end else 'leaves a gap after'} the one before")
        end = last
    if end != size - data:
        raise refuse(f"{size - data - end} bytes after the last tensor belong to none")
    return {name: Stored(path, dtype, shape, data + first) for name, first, _, dtype, shape in places}


def _place(path: Path, name: str, entry: Any, available: int) -> tuple[str, int, int, np.dtype, tuple[int, ...]]:
    """First and last byte, type and shape of a tensor."""

    def refuse(fact: str) -> UserError:
        return UserError(f"{path}: tensor {quoted(name)} {fact}")

    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise refuse("must have dtype, shape and data_offsets, and nothing else")
    if not isinstance(entry["dtype"], str) or entry["dtype"] not in _TYPES:
        raise refuse(f"has the type {quoted(entry['dtype'])}; weights are {', '.join(_TYPES)}")
    dtype, shape, offsets = _TYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
    if not _counts(shape) or len(shape) > 8:
        raise refuse(f"has the shape {quoted(shape)}")
    if not _counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise refuse(f"has the data_offsets {quoted(offsets)}")
    if offsets[1] > available:
        raise refuse(f"ends at byte {quoted(offsets[1])} of {available}: the file is cut short")
    if offsets[1] - offsets[0] != math.prod(shape) * dtype.itemsize:
        raise refuse(f"of shape {quoted(shape)} cannot have {offsets[1] - offsets[0]} bytes")
    return name, offsets[0], offsets[1], dtype, tuple(shape)


def _counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


@dataclass(frozen=True)
class Planned:
    """A tensor that will be written."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    values: Callable[[], Iterator[np.ndarray]]
    """Its values in order, in pieces, so that a large one need not be held whole."""

    @property
    def bytes(self) -> int:
        """Its size in the file."""
        return math.prod(self.shape) * self.dtype.itemsize


def write(directory: Path, planned: Sequence[Planned], shard_bytes: int) -> list[str]:
    """Writes `model.safetensors`, or numbered shards of at most `shard_bytes` and their index.

    Returns:
      The names of the files.
    """
    shards: list[list[Planned]] = [[]]
    for tensor in planned:
        if shards[-1] and sum(other.bytes for other in shards[-1]) + tensor.bytes > shard_bytes:
            shards.append([])
        shards[-1].append(tensor)
    if len(shards) == 1:
        _write_file(directory / SINGLE, shards[0])
        return [SINGLE]
    places: dict[str, str] = {}
    names = [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
    for name, shard in zip(names, shards, strict=True):
        _write_file(directory / name, shard)
        places |= {tensor.name: name for tensor in shard}
    index = {"metadata": {"total_size": sum(tensor.bytes for tensor in planned)}, "weight_map": places}
    (directory / INDEX).write_text(json.dumps(index, indent=2) + "\n")
    return [*names, INDEX]


SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


def _write_file(path: Path, planned: Sequence[Planned]) -> None:
    header: dict[str, Mapping[str, Any]] = {"__metadata__": {"format": "pt"}}
    codes = {DTYPES[name]: code for name, code in _CODES.items()}
    end = 0
    for tensor in planned:
        offsets = [end, end := end + tensor.bytes]
        header[tensor.name] = {"dtype": codes[tensor.dtype], "shape": list(tensor.shape), "data_offsets": offsets}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # values begin at a multiple of eight
    with path.open("wb") as file:
        file.write(_LENGTH.pack(len(text)) + text)
        for tensor in planned:
            for piece in tensor.values():
                assert piece.dtype == tensor.dtype, tensor.name
                file.write(np.ascontiguousarray(piece).view(np.uint8).data)
        assert file.tell() == _LENGTH.size + len(text) + end, path
        file.flush()
        os.fsync(file.fileno())
