"""Opening files that may be compressed, and the ways in which those can be broken."""

import gzip
import io
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

#: What reading a half-written or damaged compressed file raises.
BROKEN = (EOFError, gzip.BadGzipFile, zlib.error, zstd.ZstdError)

GZIP, ZSTD = (".gz",), (".zst", ".zstd")


#: Bytes that are decompressed ahead.
_BUFFER = 1 << 16


class _Stepwise(io.RawIOBase):
    """Gives what there is before it finds out that the rest is missing."""

    def __init__(self, stream: Any):
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read1(len(buffer))
        buffer[: len(data)] = data
        return len(data)


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Yields a stream of the contents."""
    with path.open("rb") as raw:
        if path.name.endswith(GZIP):
            with gzip.GzipFile(fileobj=raw) as stream:
                yield io.BufferedReader(_Stepwise(stream), _BUFFER)
        elif path.name.endswith(ZSTD):
            with zstd.ZstdFile(raw) as stream:
                yield io.BufferedReader(_Stepwise(stream), _BUFFER)
        else:
            yield raw


def is_compressed(path: Path) -> bool:
    """Whether a file can only be read from its beginning."""
    return path.name.endswith((*GZIP, *ZSTD))


def broken(error: BaseException) -> str:
    """Says what is wrong with a compressed file."""
    if isinstance(error, EOFError):
        return "the compressed file ends early, as if half-written"
    return f"the compressed file is damaged from here on ({error})"
