"""Files from a directory that nobody vouches for."""

import json
import os
import stat
from itertools import chain
from pathlib import Path
from typing import Any

from rnope_jax.errors import UserError

#: Lists and objects in one another, and in all: more would make what reads them slow or large.
_DEPTH = 32
_CONTAINERS = 2**18


def regular_file(directory: Path, name: str, limit: int | None = None) -> Path:
    """The path of a file that lies in `directory` itself.

    Args:
      directory: where it must be.
      name: a plain file name.
      limit: most bytes that it may have.

    Raises:
      UserError: if the name leads elsewhere, or what is there is no regular file, or it is too large.
    """
    if name in ("", ".", "..") or any(mark in name for mark in "/\\") or not name.isprintable() or len(name) > 255:
        raise UserError(f"{directory}: {quoted(name)} is not a plain file name")
    path = directory / name
    try:
        real = Path(os.path.realpath(path, strict=True))
        status = real.stat()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    if path.is_symlink() and not real.is_relative_to(os.path.realpath(directory)):
        raise UserError(f"{path}: a link that leads out of the directory; copy it with its files (cp -rL)")
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{path}: not a regular file")
    if limit is not None and status.st_size > limit:
        raise UserError(f"{path}: {status.st_size} bytes are over the limit of {limit}")
    return path


def read_json(directory: Path, name: str, limit: int) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
      UserError: if there is no such file, or it holds anything else, or a name twice.
    """
    path = regular_file(directory, name, limit)
    value = parse_json(path, path.read_bytes())
    if not isinstance(value, dict):
        raise UserError(f"{path}: not a JSON object")
    return value


def parse_json(path: Path, text: bytes) -> Any:
    """Parses strictly: UTF-8, no name twice in an object, no NaN or infinity, nothing endless.

    Raises:
      UserError: naming `path` and the fact.
    """
    # Before any of them is made: an empty list takes thirty times its two characters.
    if text.count(b"[") + text.count(b"{") > _CONTAINERS:
        raise UserError(f"{path}: more than {_CONTAINERS} lists and objects")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in pairs:
            if name in found:
                raise ValueError(f"the name {quoted(name)} appears twice")
            found[name] = value
        return found

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not a number")

    too_deep = UserError(f"{path}: JSON nested too deeply")
    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=unique, parse_constant=refuse)
    except RecursionError as error:
        raise too_deep from error
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON: {quoted(error)}") from error
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(_DEPTH):
        inner = chain.from_iterable(item.values() if isinstance(item, dict) else item for item in level)
        level = [item for item in inner if isinstance(item, (dict, list))]
    if level:
        raise too_deep
    return value


def quoted(value: Any, limit: int = 80) -> str:
    """A value from such a file as part of a one-line message."""
    text = ascii(value) if isinstance(value, str) else ascii(str(value))[1:-1]
    return text if len(text) <= limit else text[: limit - 3] + "..."
