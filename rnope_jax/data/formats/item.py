"""What is read out of a file: texts, records, and what could not be read."""

import codecs
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

#: Bytes of a bad record that are kept for whoever looks into it.
_SHOWN = 200


@dataclass(frozen=True)
class Limits:
    """What a reader may take into memory, and the field that it looks for."""

    record_bytes: int
    """Longest record."""
    text_field: str
    """Field or column that holds the text of a record."""


@dataclass(frozen=True)
class LongText:
    """A text too long to be held, as its pieces; it is known to be UTF-8."""

    pieces: Callable[[], Iterator[str]]


@dataclass(frozen=True)
class Bad:
    """A record that cannot be used."""

    reason: str
    begins: str = ""
    """Its first bytes, to recognise it by."""
    count: int = 1
    """How many records it stands for, as far as that is known."""


class Item(NamedTuple):
    """The contents of one record."""

    number: int
    """Line or row, from 1 within what is being read; 0 for a file as a whole."""
    value: str | dict[str, Any] | LongText | Bad | None
    """None for a blank line."""


def shown(data: bytes | str) -> str:
    """The beginning of a record, as text."""
    if isinstance(data, str):
        data = data[:_SHOWN].encode("utf-8", "backslashreplace")
    return data[:_SHOWN].decode("utf-8", "backslashreplace")


def kind(value: object) -> str:
    """What a value of JSON is."""
    names = {dict: "an object", list: "an array", str: "a text", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number")


def not_utf8(error: UnicodeDecodeError, what: str = "UTF-8") -> str:
    """Why bytes are no text."""
    utf16 = bytes(error.object[:2]) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    hint = "; it begins like UTF-16: convert the file" if utf16 else ""
    return f"is not {what} ({error.reason} at byte {error.start}{hint})"
