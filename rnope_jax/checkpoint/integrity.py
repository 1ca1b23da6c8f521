"""The integrity file of a checkpoint: size and sha256 of every file in it, written when all are on disk.

Orbax stores no checksums: a flipped bit in its files comes back as another parameter, without a word. Nor
does it sync all that it writes. `seal` does both; its file says that what it lists had reached the disk.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from rnope_jax.errors import UserError
from rnope_jax.files import sync, write_text

#: Name of the integrity file in the directory of a checkpoint.
NAME = "INTEGRITY.json"

#: Of the layout of the file.
_FORMAT = 1

#: Hashing leaves Python's lock alone, so threads use cores; beyond this many, disks are the limit.
_THREADS = min(8, os.cpu_count() or 1)

#: Damaged files that a message names.
_NAMED = 3

T = TypeVar("T")
R = TypeVar("R")


class _Entry(NamedTuple):
    size: int
    sha256: str


class DamagedSeal(Exception):
    """The integrity file itself cannot be believed; the message tells why."""


def is_sealed(directory: Path) -> bool:
    """Whether a checkpoint has an integrity file."""
    return os.path.lexists(directory / NAME)


def seal(directory: Path) -> None:
    """Syncs a checkpoint to disk and writes its integrity file, all or nothing.

    Args:
      directory: of one step, complete, and named by the step.

    Raises:
      OSError: if it cannot be read, or the file cannot be written.
    """
    files = _files(directory)
    entries = dict(zip(files, _each(lambda name: _entry(directory / name, durable=True), files), strict=True))
    # A file is on disk only when its name is, and the checkpoint only when its own name is.
    for inner in [path for path in directory.rglob("*") if path.is_dir()]:
        sync(inner)
    sync(directory)
    sync(directory.parent)
    body = {
        "format": _FORMAT,
        "step": directory.name,
        "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S"),
        "files": {name: entry._asdict() for name, entry in entries.items()},
    }
    try:
        write_text(directory / NAME, json.dumps({**body, "self": _own_digest(body)}, indent=1) + "\n")
    except OSError:
        with contextlib.suppress(OSError):
            (directory / f".{NAME}.partial").unlink(missing_ok=True)
        raise


def written(directory: Path) -> str | None:
    """When a checkpoint was sealed, as text in UTC; None where its integrity file is missing or damaged."""
    try:
        return _read(directory)["written"] if is_sealed(directory) else None
    except DamagedSeal:
        return None


def damage(directory: Path, *, contents: bool = True) -> str | None:
    """What is wrong with a sealed checkpoint, in one line that names the files; None if it is whole.

    Files that the integrity file does not list are of no effect: Orbax reads none but its own.

    Args:
      directory: of one step.
      contents: also reads every file; otherwise only their sizes are compared.

    Raises:
      UserError: if a later version has written the integrity file.
    """
    try:
        expected = _read(directory)["files"]
    except DamagedSeal as error:
        return str(error)
    found = [_wrong_size(directory / name, name, entry.size) for name, entry in expected.items()]
    if contents and not any(found):  # a missing or shortened file is enough to know
        found = list(_each(lambda name: _wrong_content(directory / name, name, expected[name]), list(expected)))
    return _told([line for line in found if line])


def _read(directory: Path) -> dict[str, Any]:
    """The integrity file.

    Raises:
      DamagedSeal: if it is not as it was written, or of another step.
      UserError: if a later version has written it.
    """
    try:
        read = json.loads((directory / NAME).read_bytes())
        sound = read.pop("self") == _own_digest(read)
        if sound and read["format"] != _FORMAT:
            raise UserError(f"{directory} was saved by a later version of rnope_jax; use that one. Nothing was changed")
        read["files"] = {name: _Entry(**entry) for name, entry in read["files"].items()}
    except OSError as error:
        raise DamagedSeal(f"{NAME} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedSeal(f"{NAME} itself is damaged") from error
    if not sound:
        raise DamagedSeal(f"{NAME} itself is damaged")
    if read["step"] != directory.name:
        raise DamagedSeal(f"its files are those of step {read['step']}")
    return read


def _own_digest(body: dict[str, Any]) -> str:
    """Of the integrity file without this line."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _files(directory: Path) -> list[str]:
    """Every file of a checkpoint but the integrity file, by name, the largest first so that threads end together."""
    sizes = {
        str(path.relative_to(directory)): path.stat().st_size
        for path in directory.rglob("*")
        if path.is_file() and path.name not in (NAME, f".{NAME}.partial")
    }
    return sorted(sizes, key=lambda name: (-sizes[name], name))


def _entry(path: Path, *, durable: bool = False) -> _Entry:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        size = file.tell()
        if durable:
            os.fsync(file.fileno())
    return _Entry(size, digest)


def _wrong_size(path: Path, name: str, size: int) -> str | None:
    try:
        found = path.stat().st_size
    except FileNotFoundError:
        return f"{name} is missing"
    except OSError as error:
        return f"{name} cannot be read: {error.strerror}"
    return None if found == size else f"{name} has {found:,} bytes, {size:,} were written"


def _wrong_content(path: Path, name: str, expected: _Entry) -> str | None:
    try:
        found = _entry(path)
    except OSError as error:
        return f"{name} cannot be read: {error.strerror}"
    return None if found == expected else f"{name} has other contents than were written"


def _told(lines: list[str]) -> str | None:
    if not lines:
        return None
    more = [f"and {len(lines) - _NAMED} more files"] if len(lines) > _NAMED else []
    return "; ".join([*lines[:_NAMED], *more])


def _each(action: Callable[[T], R], items: Iterable[T]) -> Iterable[R]:
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(action, items))
