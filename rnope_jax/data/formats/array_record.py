"""ArrayRecord files: each record is a text, or each is a JSON object; the first one tells which."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from array_record.python.array_record_module import ArrayRecordReader

from rnope_jax.data.formats import json_lines
from rnope_jax.data.formats.item import Bad, Item, Limits, not_utf8, shown

#: Records that are read at once.
_RECORDS = 64


def units(path: Path, size: int, target: int, limits: Limits) -> list[tuple[int, int]]:
    """Ranges of records."""
    try:
        with _opened(path) as reader:
            count = reader.num_records()
    except RuntimeError:
        return [(0, 0)]  # `items` says what is wrong with it
    step = max(1, count * target // max(size, 1))
    return [(first, min(first + step, count)) for first in range(0, count, step)] or [(0, 0)]


def items(path: Path, first: int, stop: int, limits: Limits) -> Iterator[Item]:
    """Some of the records."""
    number = 0
    try:
        with _opened(path) as reader:
            leading = next((data for data in _read(reader, 0, reader.num_records()) if isinstance(data, bytes)), b"")
            as_json = isinstance(json_lines.parsed(leading), dict)
            for data in _read(reader, first, stop):
                number += 1
                yield Item(number, data if isinstance(data, Bad) else _value(data, as_json, limits))
    except RuntimeError as error:
        yield Item(0, Bad(f"cannot be read as ArrayRecord: {error}"))


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    reader = ArrayRecordReader(str(path), "readahead_buffer_size:0,max_parallelism:0")
    if not reader.ok():
        reader.close()  # raises what is wrong
    yield reader
    with suppress(RuntimeError):  # told already, by the record that could not be read
        reader.close()


def _read(reader: Any, first: int, stop: int) -> Iterator[bytes | Bad]:
    """Records; where some cannot be read together, one by one."""
    for begin in range(first, stop, _RECORDS):
        numbers = range(begin, min(begin + _RECORDS, stop))
        try:
            yield from reader.read(numbers.start, numbers.stop)
            continue
        except (RuntimeError, IndexError):
            pass
        for number in numbers:
            try:
                data = reader.read([number])[0]
            except (RuntimeError, IndexError) as error:
                data = Bad(f"cannot be read: {error}")
            yield data


def _value(data: bytes, as_json: bool, limits: Limits) -> Any:
    if len(data) > limits.record_bytes:
        return Bad(f"a record of {len(data):,} bytes, more than the {limits.record_bytes:,} of --max-record-mb")
    if as_json:
        return json_lines.parsed(data)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        return Bad(not_utf8(error), shown(data))
