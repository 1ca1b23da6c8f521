"""Prepared data (`preparing.py`) as tokens to be read, where it lies."""

import hashlib
from bisect import bisect_right
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from rnope_jax.data import seal
from rnope_jax.data.preparing import part
from rnope_jax.data.shards import Shard
from rnope_jax.errors import UserError

INDEX = "index.json"

#: What to do about files that are not as they were written.
_REMEDY = "restore it, or have the data prepared again"


def is_prepared(path: Path) -> bool:
    """Whether this is a directory that was made by `rnope prepare`, or is being made."""
    return path.is_dir() and (path / "plan.json").is_file()


class PreparedTokens:
    """A directory of parts, one after the other (a `Tokens`).

    Raises:
      UserError: if it is not complete, or its files are not those that the index tells of. The contents of the
        tokens are compared block by block as they are read.
    """

    def __init__(self, directory: Path):
        self.directory = directory
        if not (directory / INDEX).exists():
            raise UserError(f"{directory} is not complete: it has no {INDEX}; `rnope prepare` goes on with it")
        self.index = seal.read(directory / INDEX)
        try:
            self._open()
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{directory}/{INDEX} is of another version ({error!r}); prepare the data again") from error

    def _open(self) -> None:
        index, self._shards, self._masks = self.index, list[Shard](), list[Shard | None]()
        self._parts = index["parts"]
        for item in self._parts:
            folder = self.directory / "parts" / item["name"]
            made = [_shard(folder, shard, index["dtype"]) for shard in item["shards"]]
            masks = [_shard(folder, shard, "|u1") for shard in item["counted"]]
            counts = [sum(shard.count for shard in shards) for shards in (made, masks or made)]
            if counts != [item["tokens"]] * 2:
                raise UserError(
                    f"{folder}: the index tells of {item['tokens']} tokens and of files with {counts[0]}; {_REMEDY}"
                )
            self._shards += made
            self._masks += masks or [None] * len(made)
        for shard in (*self._shards, *(mask for mask in self._masks if mask)):
            shard.check()
        self._places = [0, *np.cumsum([shard.count for shard in self._shards]).tolist()]
        if self._places[-1] != index["tokens"]:
            raise UserError(
                f"{self.directory}: the index tells of {index['tokens']} tokens, its parts have others; {_REMEDY}"
            )
        self._first_documents = [0, *np.cumsum([item["documents"] for item in self._parts]).tolist()]
        self.starts = self._read_starts()

    def _read_starts(self) -> np.ndarray:
        path, count = self.directory / "starts.bin", self.index["documents"]
        try:
            if path.stat().st_size != 8 * count:
                raise UserError(f"{path} has {path.stat().st_size} bytes, not those of {count} documents; {_REMEDY}")
            starts = np.fromfile(path, "<i8")  # a mapped file that is out of reach kills the process
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}; {_REMEDY}") from error
        if hashlib.sha256(starts.data).hexdigest() != self.index["starts_sha256"]:
            raise UserError(f"{path} is not as it was written; {_REMEDY}")
        return starts

    def __len__(self) -> int:
        return int(self.index["tokens"])

    @property
    def where(self) -> str:
        return str(self.directory)

    def read(self, first: int, stop: int) -> np.ndarray:
        if first >= stop:
            return np.zeros(0, np.int32)
        number = bisect_right(self._places, first) - 1
        if stop <= self._places[number + 1]:  # nearly always
            place = self._places[number]
            return self._shards[number].read(first - place, stop - place).astype(np.int32)
        return np.concatenate([shard.read(a, b) for shard, _, a, b in self._pieces(first, stop)]).astype(np.int32)

    def counted(self, first: int, stop: int) -> np.ndarray | None:
        if not self._has_masks:
            return None
        found = [
            np.ones(b - a, bool) if mask is None else mask.read(a, b).astype(bool)
            for _, mask, a, b in self._pieces(first, stop)
        ]
        return np.concatenate(found) if found else np.zeros(0, bool)

    def _pieces(self, first: int, stop: int) -> list[tuple[Shard, Shard | None, int, int]]:
        """Which part of which file holds the tokens."""
        made = []
        number = bisect_right(self._places, first) - 1
        while first < stop:
            place, end = self._places[number : number + 2]
            made.append((self._shards[number], self._masks[number], first - place, min(stop, end) - place))
            first, number = end, number + 1
        return made

    @cached_property
    def _has_masks(self) -> bool:
        return any(self._masks)

    def name(self, document: int) -> str:
        number = bisect_right(self._first_documents, document) - 1
        item = self._parts[number]
        (found,) = self._documents(number, document - self._first_documents[number], 1)
        file, before = item["spans"][int(found["span"])]
        path, record = self.index["inputs"][file], int(found["record"])
        return f"{path}:{record + before}" if record else str(path)

    def digests(self) -> np.ndarray:
        """A number for the contents of each document, uint64 [documents]."""
        return np.concatenate(
            [self._documents(number, 0, item["documents"])["digest"] for number, item in enumerate(self._parts)]
        )

    def _documents(self, number: int, first: int, count: int) -> np.ndarray:
        path = self.directory / "parts" / self._parts[number]["name"] / "documents.bin"
        found = np.fromfile(path, part.DOCUMENT, count, offset=first * part.DOCUMENT.itemsize)
        if len(found) != count:
            raise UserError(f"{path} is cut short; {_REMEDY}")
        return found

    @property
    def fingerprint(self) -> dict[str, Any]:
        files = {}
        for item in self._parts:
            made = [shard["sha256"] for shard in (*item["shards"], *item["counted"])]
            files[item["name"]] = hashlib.sha256(" ".join([*made, item["documents_sha256"]]).encode()).hexdigest()[:16]
        return {
            "documents": self.index["documents"],
            "tokens": self.index["tokens"],
            "tokenizer": self.index["tokenizer"],
            "files": files,
        }

    @property
    def text_bytes(self) -> int | None:
        return int(self.index["text_bytes"])


def _shard(folder: Path, entry: dict[str, Any], dtype: str) -> Shard:
    name = entry["name"]
    if Path(name).name != name:
        raise ValueError(f"{name!r} is not the name of a file")
    return Shard(folder / f"{name}.bin", entry["count"], dtype, folder / f"{name}.crc", entry["checksums_sha256"])
