"""Where evaluations leave what they found: DIRECTORY/evaluations for numbers, DIRECTORY/figures for pictures."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rnope_jax.errors import UserError
from rnope_jax.files import write_bytes, write_text


def check_place(directory: Path) -> None:
    """Finds out whether `leave` could write, without writing.

    Raises:
      UserError: if not.
    """
    there = directory
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        raise UserError(f"cannot write to {directory}: {there} is not a directory")
    for place in (there, directory / "evaluations", directory / "figures"):
        if place.exists() and not os.access(place, os.W_OK | os.X_OK):
            raise UserError(f"cannot write to {place}: permission denied; give another directory with --out")


def leave(directory: Path, name: str, found: Mapping[str, Any], figures: Mapping[str, bytes]) -> list[Path]:
    """Writes numbers as NAME.json and pictures, each whole or not at all; the paths."""
    written = []
    for file, data in figures.items():
        written.append(directory / "figures" / file)
        written[-1].parent.mkdir(parents=True, exist_ok=True)
        write_bytes(written[-1], data)
    # Last, so that whoever finds the numbers finds their pictures.
    written.append(directory / "evaluations" / f"{name}.json")
    written[-1].parent.mkdir(parents=True, exist_ok=True)
    write_text(written[-1], json.dumps(found, indent=1) + "\n")
    return written
