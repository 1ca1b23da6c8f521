"""Text files: one document each, UTF-8."""

import codecs
from collections.abc import Iterator
from pathlib import Path

from rnope_jax.data import tokenizer
from rnope_jax.data.formats.compressed import BROKEN, broken, opened
from rnope_jax.data.formats.item import Bad, Item, Limits, LongText, not_utf8, shown

#: Bytes that are read at once of a long text.
_READ = 1 << 20


def units(path: Path, size: int, target: int, limits: Limits) -> list[tuple[int, int]]:
    """A text is read as a whole."""
    return [(0, size)]


def items(path: Path, first: int, stop: int, limits: Limits) -> Iterator[Item]:
    """The text of a file."""
    with opened(path) as stream:
        try:
            data = stream.read(limits.record_bytes + 1)
            if len(data) <= limits.record_bytes:
                yield Item(0, data.decode("utf-8"))
                return
            for _ in _decoded(path):
                pass
        except UnicodeDecodeError as error:
            yield Item(0, Bad(not_utf8(error, "UTF-8 text"), shown(data)))
            return
        except BROKEN as error:
            yield Item(0, Bad(broken(error)))
            return
        yield Item(0, LongText(lambda: _pieces(path)))


def _decoded(path: Path) -> Iterator[str]:
    decoder, place = codecs.getincrementaldecoder("utf-8")(), 0
    with opened(path) as stream:
        while True:
            data = stream.read(_READ)
            waiting = len(decoder.getstate()[0])
            try:
                yield decoder.decode(data, final=not data)
            except UnicodeDecodeError as error:
                error.start += place - waiting
                raise
            place += len(data)
            if not data:
                return


def _pieces(path: Path) -> Iterator[str]:
    """Cuts the text where `tokenizer.pieces` cuts it, without holding all of it."""
    waiting = ""
    for text in _decoded(path):
        waiting += text
        while len(waiting) > tokenizer.PIECE:
            end = tokenizer.cut(waiting, 0)
            yield waiting[:end]
            waiting = waiting[end:]
    yield waiting
