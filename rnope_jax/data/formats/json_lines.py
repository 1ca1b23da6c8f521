"""JSON lines: a record on each line."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from rnope_jax.data.formats.compressed import BROKEN, broken, is_compressed, opened
from rnope_jax.data.formats.item import Bad, Item, Limits, kind, not_utf8, shown

#: Bytes that are skipped at once of a line too long to be read.
_SKIP = 1 << 20

_BOM = b"\xef\xbb\xbf"


def units(path: Path, size: int, target: int, limits: Limits) -> list[tuple[int, int]]:
    """Ranges of bytes; a range has the lines that begin in it. A compressed file is one."""
    if is_compressed(path):
        return [(0, size)]
    return [(first, min(first + target, size)) for first in range(0, size, target)]


def items(path: Path, first: int, stop: int, limits: Limits) -> Iterator[Item]:
    """The lines that begin between two bytes of the file."""
    compressed = is_compressed(path)
    with opened(path) as stream:
        place, number = first, 0
        try:
            if first:
                stream.seek(first - 1)
                place += _rest_of_line(stream, stop - first + 1) - 1
            while compressed or place < stop:
                line = stream.readline(limits.record_bytes + 1)
                if not line:
                    return
                number += 1
                length = len(line)
                if length > limits.record_bytes and not line.endswith(b"\n"):
                    length += _rest_of_line(stream)
                    value: Any = Bad(
                        f"a line of {length:,} bytes, more than the {limits.record_bytes:,} of --max-record-mb",
                        shown(line),
                    )
                else:
                    value = parsed(line.removeprefix(_BOM) if place == 0 else line)
                place += length
                yield Item(number, value)
        except BROKEN as error:
            yield Item(number + 1, Bad(broken(error)))


def parsed(line: bytes) -> dict[str, Any] | Bad | None:
    """The record of a line; None for a blank one."""
    if not line.strip():
        return None
    try:
        value = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return Bad(not_utf8(error), shown(line))
    except json.JSONDecodeError as error:
        inner = "; each line must be a whole record" if line.strip() in (b"[", b"{") else ""
        return Bad(f"is not JSON ({error.msg} at character {error.pos + 1}{inner})", shown(line))
    except (ValueError, RecursionError) as error:
        reason = (
            "it is nested too deeply" if isinstance(error, RecursionError) else "a number in it has too many digits"
        )
        return Bad(f"cannot be read as JSON: {reason}", shown(line))
    if not isinstance(value, dict):
        return Bad(f"is not a JSON object but {kind(value)}", shown(line))
    return value


def _rest_of_line(stream: BinaryIO, most: int | None = None) -> int:
    """Reads to the end of a line, however long, or for `most` bytes; how many bytes that were."""
    total = 0
    while most is None or total < most:
        data = stream.readline(_SKIP if most is None else min(_SKIP, most - total))
        total += len(data)
        if not data or data.endswith(b"\n"):
            break
    return total
