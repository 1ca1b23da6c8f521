"""What is to be prepared: the files, in order, and the units of work that they are divided into.

The plan depends on the files and the options alone, so every job of several makes the same one, and
the same command finds what an interrupted one has done.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rnope_jax.config import STDLIB
from rnope_jax.data import sources
from rnope_jax.data.formats import SUFFIXES, Limits, format_of
from rnope_jax.data.preparing.examples import learned_from
from rnope_jax.data.preparing.part import Settings, Span
from rnope_jax.errors import UserError

_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Options:
    """What decides what becomes of the files."""

    suffixes: tuple[str, ...] = SUFFIXES
    """Files taken from directories, by the end of their names."""
    text_field: str = "text"
    """Field or column that holds the text of a record."""
    record_bytes: int = 64 << 20
    """Longest record; longer ones are bad. Text files may have any length."""
    part_bytes: int = 64 << 20
    """Bytes of input that are one unit of work."""
    shard_tokens: int = 1 << 27
    """Most tokens in one file."""

    def __post_init__(self) -> None:
        if not self.suffixes:
            raise UserError('suffixes: needs at least one, for example ".txt"')
        for name in ("record_bytes", "part_bytes", "shard_tokens"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} = {getattr(self, name)}: must be at least 1")

    @property
    def settings(self) -> Settings:
        """What the parts depend on."""
        return Settings(Limits(self.record_bytes, self.text_field), self.shard_tokens)


DEFAULTS = Options()


@dataclass(frozen=True)
class Input:
    """A file."""

    path: str
    size: int
    modified: int
    """Seconds since 1970."""

    @classmethod
    def of(cls, path: Path) -> "Input":
        """What is there now.

        Raises:
          UserError: if it is not there.
        """
        try:
            found = path.stat()
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}") from error
        return cls(str(path), found.st_size, int(found.st_mtime))


@dataclass(frozen=True)
class Plan:
    """Files and units."""

    options: Options
    tokenizer: str
    """Checksum."""
    inputs: tuple[Input, ...]
    units: tuple[tuple[Span, ...], ...]
    other: int = 0
    """Files of directories that were left out because of their names."""

    def to_json(self) -> dict[str, Any]:
        """As `from_json` reads it."""
        return {
            "format": _FORMAT,
            "tokenizer": self.tokenizer,
            "options": asdict(self.options),
            "inputs": [[item.path, item.size, item.modified] for item in self.inputs],
            "units": [[[span.input, span.first, span.stop] for span in unit] for unit in self.units],
            "other": self.other,
        }

    def difference(self, other: "Plan") -> str | None:
        """In what another plan differs from this one; None if in nothing."""
        if self.tokenizer != other.tokenizer:
            return "the tokenizer is another"
        for name, value in asdict(self.options).items():
            if getattr(other.options, name) != value:
                return f"{name} was {value!r} and is {getattr(other.options, name)!r}"
        mine, theirs = ({item.path: item for item in plan.inputs} for plan in (self, other))
        for path in [*mine, *theirs]:
            if path not in theirs:
                return f"{path} is no longer among the files"
            if path not in mine:
                return f"{path} was not among the files"
            if mine[path] != theirs[path]:
                return f"{path} has changed (it had {mine[path].size} bytes and has {theirs[path].size})"
        same = self.inputs == other.inputs and self.units == other.units
        return None if same else "the files are in another order, or are divided otherwise"


def make(paths: Sequence[str], options: Options, tokenizer: str) -> Plan:
    """Lists files and divides them.

    Args:
      paths: files, directories and "stdlib".
      options: what is taken and how it is divided.
      tokenizer: its checksum.

    Raises:
      UserError: if something is missing, cannot be read as what it is called, or there is nothing.
    """
    inputs, other = [], 0
    for path, taken in _listed(paths, options.suffixes):
        if not taken:
            other += 1
            continue
        inputs.append(Input.of(path))
    if not inputs:
        raise UserError(
            f"{', '.join(paths)}: no files found; directories are searched for files that end in "
            f"{', '.join(options.suffixes)} (--suffixes)"
        )
    return Plan(options, tokenizer, tuple(inputs), tuple(_units(inputs, options)), other)


def texts(paths: Sequence[str], options: Options) -> Iterator[str]:
    """The texts of files, for a tokenizer to be trained on; what is bad is passed over.

    Raises:
      UserError: if something is missing, or cannot be read as what it is called.
    """
    limits = options.settings.limits
    for unit in make(paths, options, "").units:
        for span in unit:
            path = Path(span.path)
            for item in format_of(path).items(path, span.first, span.stop, limits):
                yield from learned_from(item.value, limits)


def from_json(data: dict[str, Any]) -> Plan:
    """Reads a plan.

    Raises:
      KeyError, TypeError, ValueError: if it is none.
    """
    if data["format"] != _FORMAT:
        raise ValueError(f"its format is {data['format']}")
    options = Options(**{**data["options"], "suffixes": tuple(data["options"]["suffixes"])})
    inputs = tuple(Input(*item) for item in data["inputs"])
    units = tuple(
        tuple(Span(number, inputs[number].path, first, stop) for number, first, stop in unit) for unit in data["units"]
    )
    return Plan(options, data["tokenizer"], inputs, units, data["other"])


def _listed(paths: Sequence[str], suffixes: tuple[str, ...]) -> Iterator[tuple[Path, bool]]:
    """Yields files and whether they are taken, in an order that is always the same."""
    for entry in paths:
        root = Path(entry).expanduser()
        if entry == STDLIB:
            for _, path, _ in sources.files((STDLIB,), ()):
                yield path, True
        elif root.is_dir():
            for path in sorted(root.rglob("*")):
                if path.is_file():
                    yield path, path.name.endswith(suffixes)
        elif root.is_file():
            yield root, True
        elif root.exists():  # a pipe, say, of which nothing is known before it is read, and which can be read once
            raise UserError(f"{entry} is not a regular file; write what comes out of it to one")
        else:
            raise UserError(f"{entry} does not exist; give files, directories or {STDLIB!r}")


def _units(inputs: Sequence[Input], options: Options) -> Iterator[tuple[Span, ...]]:
    """Big files are divided, where their format can be; small ones are put together."""
    unit: list[Span] = []
    size = 0.0
    for number, item in enumerate(inputs):
        if not item.size:
            continue
        path = Path(item.path)
        try:
            divided = format_of(path).units(path, item.size, options.part_bytes, options.settings.limits)
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}") from error
        for first, stop in divided:
            share = item.size / len(divided)
            if unit and size + share > options.part_bytes:
                yield tuple(unit)
                unit, size = [], 0
            unit.append(Span(number, item.path, first, stop))
            size += share
    if unit:
        yield tuple(unit)
