"""Where analyses leave what they found."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rnope_jax.errors import UserError
from rnope_jax.files import write_bytes, write_text


def check_place(directory: Path) -> None:
    """Finds out whether files could be made in a directory, which need not exist, without making any.

    Raises:
      UserError: if not.
    """
    there = directory
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        raise UserError(f"cannot write to {directory}: {there} is not a directory; give another with --out")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"cannot write to {there}: permission denied; give another directory with --out")


def leave(numbers: Path, found: Mapping[str, Any], figures: Path, drawn: Mapping[str, bytes]) -> list[Path]:
    """Writes what was found to a JSON file, and pictures into a directory, each whole or not at all; the paths."""
    written = []
    for name, data in drawn.items():
        written.append(figures / name)
        written[-1].parent.mkdir(parents=True, exist_ok=True)
        write_bytes(written[-1], data)
    # Last, so that whoever finds the numbers finds their pictures.
    numbers.parent.mkdir(parents=True, exist_ok=True)
    write_text(numbers, json.dumps(found, indent=1) + "\n")
    return [*written, numbers]
