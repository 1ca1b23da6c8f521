"""Opening files that may be compressed, and the ways in which those can be broken."""

import gzip
import io
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

#: What reading a half-written or damaged compressed file raises.
BROKEN = (EOFError, gzip.BadGzipFile, zlib.error, zstd.ZstdError)

GZIP, ZSTD = (".gz",), (".zst", ".zstd")


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Yields a stream of the contents."""
    with path.open("rb") as raw:
        if path.name.endswith(GZIP):
            with gzip.GzipFile(fileobj=raw) as stream:
                yield io.BufferedReader(stream)
        elif path.name.endswith(ZSTD):
            with zstd.ZstdFile(raw) as stream:
                yield io.BufferedReader(stream)
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
