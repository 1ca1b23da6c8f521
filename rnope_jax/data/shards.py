"""One file of tokens: written with checksums, and read so that nothing but what was written comes out.

NAME.bin    numbers of one type, little endian
NAME.crc    CRC-32 of each block of 32 KiB of NAME.bin, 32 bits each

A block is compared with its checksum when it is first read: a run need not read terabytes before its
first step, and still trains on no block that changed.
"""

import hashlib
import os
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np

from rnope_jax.errors import UserError
from rnope_jax.files import read_range

#: Bytes that share a checksum.
BLOCK = 1 << 15

#: Files that are open at a time; the usual limit of a process is 1024.
_OPEN = 256


class Checksums:
    """Of bytes that come in pieces: SHA-256 of all, CRC-32 of each block."""

    def __init__(self) -> None:
        self.sha256 = hashlib.sha256()
        self.size = 0
        self._blocks: list[int] = []
        self._last = 0

    def update(self, data: bytes) -> None:
        self.sha256.update(data)
        view = memoryview(data)
        while view:
            room = BLOCK - self.size % BLOCK
            self._last = zlib.crc32(view[:room], self._last)
            self.size += len(view[:room])
            view = view[room:]
            if self.size % BLOCK == 0:
                self._blocks.append(self._last)
                self._last = 0

    def blocks(self) -> np.ndarray:
        """CRC-32 of each block, uint32; the last block may be shorter."""
        rest = [self._last] if self.size % BLOCK else []
        return np.array([*self._blocks, *rest], "<u4")


@dataclass(frozen=True)
class Shard:
    """A file of numbers and what is known of it; `read` gives them."""

    path: Path
    count: int
    """Numbers in it."""
    dtype: str
    checksums: Path
    """Its CRC-32s, uint32."""
    checksums_sha256: str
    offset: int = 0
    """Bytes before the first number; they belong to the first block."""

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.offset + self.count * np.dtype(self.dtype).itemsize

    def check(self) -> None:
        """Compares the size of the file, without reading it.

        Raises:
          UserError: if the file is not there or has another size.
        """
        try:
            found = self.path.stat().st_size
        except OSError as error:
            raise UserError(f"{self.path}: {error.strerror}; {_REMEDY}") from error
        if found != self.size:
            raise UserError(f"{self.path} has {found} bytes, not the {self.size} of its {self.count} tokens; {_REMEDY}")

    def read(self, first: int, stop: int) -> np.ndarray:
        """Numbers first to stop.

        Raises:
          UserError: if they are not those that were written.
        """
        width = np.dtype(self.dtype).itemsize
        data = _opened(self).read(self.offset + first * width, self.offset + stop * width)
        return np.frombuffer(data, self.dtype)


_REMEDY = "it changed since its checksums were made; restore it, or prepare the data again in another place"


class _Opened:
    """A file that is open, and which of its blocks were found sound."""

    def __init__(self, shard: Shard):
        self.path, self.size = shard.path, shard.size
        shard.check()
        try:
            data = shard.checksums.read_bytes()
            self.handle = os.open(shard.path, os.O_RDONLY)
        except OSError as error:
            raise UserError(f"{error.filename}: {error.strerror}; {_REMEDY}") from error
        if hashlib.sha256(data).hexdigest() != shard.checksums_sha256 or len(data) != 4 * -(-shard.size // BLOCK):
            raise UserError(f"{shard.checksums} is not the list of checksums that was written; {_REMEDY}")
        self.wanted = np.frombuffer(data, "<u4")
        self.sound = np.zeros(len(self.wanted), bool)

    def __del__(self) -> None:
        if hasattr(self, "handle"):
            os.close(self.handle)

    def read(self, first: int, stop: int) -> bytes:
        low, high = first // BLOCK, -(-stop // BLOCK)
        if self.sound[low:high].all():
            return self._read(first, stop)
        whole = memoryview(self._read(low * BLOCK, min(high * BLOCK, self.size)))
        for block in range(low, high):
            place = (block - low) * BLOCK
            if zlib.crc32(whole[place : place + BLOCK]) != self.wanted[block]:
                raise UserError(
                    f"{self.path} is damaged between bytes {block * BLOCK} and {(block + 1) * BLOCK}; {_REMEDY}"
                )
        self.sound[low:high] = True
        return bytes(whole[first - low * BLOCK : stop - low * BLOCK])

    def _read(self, first: int, stop: int) -> bytes:
        data = read_range(self.handle, first, stop)
        if len(data) < stop - first:
            raise UserError(f"{self.path} ended early, at byte {first + len(data)}; {_REMEDY}")
        return data


@lru_cache(maxsize=_OPEN)
def _opened(shard: Shard) -> _Opened:
    return _Opened(shard)


class ShardWriter:
    """Writes numbers to files of at most `limit` numbers: STEM-0000.bin, STEM-0001.bin and so on, with checksums.

    Attributes:
      written: of each file its name, how many numbers it has, its SHA-256 and that of its checksums.
    """

    def __init__(self, directory: Path, stem: str, dtype: np.dtype, limit: int):
        self.directory, self.stem, self.dtype, self.limit = directory, stem, dtype, limit
        self.written: list[dict[str, str | int]] = []
        self.total = 0
        self._file: BinaryIO | None = None
        self._here = 0

    def write(self, values: np.ndarray) -> None:
        """Appends numbers; they may go to several files."""
        while len(values):
            if self._file is None:
                self._name = f"{self.stem}-{len(self.written):04}"
                self._file = (self.directory / f"{self._name}.bin").open("wb")
                self._checksums, self._here = Checksums(), 0
            piece = values[: self.limit - self._here]
            data = np.ascontiguousarray(piece, self.dtype).tobytes()
            self._file.write(data)
            self._checksums.update(data)
            self._here += len(piece)
            self.total += len(piece)
            values = values[len(piece) :]
            if self._here == self.limit:
                self.close()

    def abandon(self) -> None:
        """Leaves the file as it is."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def close(self) -> None:
        """Ends the file."""
        if self._file is None:
            return
        self._file.close()
        self._file = None
        blocks = self._checksums.blocks().tobytes()
        (self.directory / f"{self._name}.crc").write_bytes(blocks)
        self.written.append(
            {
                "name": self._name,
                "count": self._here,
                "sha256": self._checksums.sha256.hexdigest(),
                "checksums_sha256": hashlib.sha256(blocks).hexdigest(),
            }
        )
