"""What can happen to the files of a checkpoint."""

import random
from pathlib import Path

from rnope_jax.checkpoint import integrity


def kind(step: Path, file: Path) -> str:
    """A file's role, the same for all checkpoints: names of data files are random."""
    name = file.relative_to(step)
    return str(name.parent / "*" if name.parent.name == "d" else name)


def kinds(step: Path) -> dict[str, list[Path]]:
    """The files of a checkpoint by their role."""
    found: dict[str, list[Path]] = {}
    for file in sorted(step.rglob("*")):
        if file.is_file():
            found.setdefault(kind(step, file), []).append(file)
    return found


def flip_bit(file: Path, draw: random.Random) -> None:
    data = bytearray(file.read_bytes())
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    file.write_bytes(data)


def truncate(file: Path, draw: random.Random) -> None:
    file.write_bytes(file.read_bytes()[: draw.randrange(file.stat().st_size)])


def delete(file: Path, _draw: random.Random) -> None:
    file.unlink()


def unseal(directory: Path, *steps: int) -> None:
    for step in steps:
        (directory / str(step) / integrity.NAME).unlink()
