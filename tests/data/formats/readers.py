"""Reading a file as preparation does: unit by unit."""

from collections.abc import Sequence
from pathlib import Path

from rnope_jax.data.formats import Bad, Item, Limits, format_of

LIMITS = Limits(record_bytes=1 << 20, text_field="text")


def read(path: Path, target: int = 1 << 30, limits: Limits = LIMITS) -> list[Item]:
    """All items; their numbers count within each unit."""
    reader = format_of(path)
    units = reader.units(path, path.stat().st_size, target, limits)
    return [item for first, stop in units for item in reader.items(path, first, stop, limits)]


def values(items: Sequence[Item]) -> list[object]:
    return [item.value for item in items]


def texts(items: Sequence[Item]) -> list[object]:
    """The texts of good records."""
    return [item.value["text"] if isinstance(item.value, dict) else item.value for item in items if not bad(item)]


def bad(item: Item) -> bool:
    return isinstance(item.value, Bad)


def reasons(items: Sequence[Item]) -> list[tuple[int, str]]:
    """Number and reason of each bad record."""
    return [(item.number, item.value.reason) for item in items if isinstance(item.value, Bad)]
