"""What a run has recorded, read from its directory; nothing is computed again."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rnope_jax.checkpoint import inventory
from rnope_jax.config import Config
from rnope_jax.errors import UserError
from rnope_jax.run import Run

#: Evaluations that a page shows, by the names of their files.
EVALUATIONS = ("loss_by_position", "needle", "ruler", "lm_eval", "attention")


@dataclass(frozen=True)
class Evaluation:
    """The newest results of one kind."""

    step: int
    """Of the checkpoint that was measured."""
    found: dict[str, Any]


@dataclass(frozen=True)
class Record:
    """One run."""

    name: str
    path: Path
    config: Config
    steps: list[dict[str, Any]]
    """Reports on training steps, rising."""
    held_out: list[dict[str, Any]]
    """Reports on held-out loss, rising."""
    data: dict[str, Any] | None
    """The fingerprint of the data."""
    rows: dict[str, list[dict[str, Any]]] | None
    """By stage, how each of its sources fills rows (`data.mixture`)."""
    evaluations: dict[str, Evaluation]
    samples: str | None
    checkpoints: list[inventory.Entry]
    unreadable: list[str]
    """What could not be read, and why."""

    @property
    def last_step(self) -> int:
        """The last step that was reported."""
        return max((line["step"] for line in [*self.steps, *self.held_out]), default=0)


def read(paths: Sequence[Path], *, verify: bool = False) -> list[Record]:
    """The records of runs, under names that tell them apart.

    Args:
      paths: run directories.
      verify: reads all files of checkpoints; otherwise their sizes are compared.

    Raises:
      UserError: if one of them is no run.
    """
    resolved = [path.resolve() for path in paths]
    if len(set(resolved)) < len(resolved):
        raise UserError("the same run was given twice; name each once")
    names = [path.name for path in resolved]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    return [_record(name, path, verify) for name, path in zip(names, paths, strict=True)]


def _record(name: str, path: Path, verify: bool) -> Record:
    run = Run(path)
    config = run.config  # says so if this is no run
    unreadable: list[str] = []
    lines = _lines(run.metrics, unreadable)
    try:
        checkpoints = list(inventory.inventory(run, verify=verify))
    except UserError:  # there are none
        checkpoints = []
    return Record(
        name=name,
        path=path,
        config=config,
        steps=[line for line in lines if "loss" in line],
        held_out=[line for line in lines if "held_out_loss" in line],
        data=_json(run.data_file, unreadable),
        rows=_json(run.rows_file, unreadable),
        evaluations=_evaluations(path / "evaluations", unreadable),
        samples=_text(run.samples, unreadable),
        checkpoints=checkpoints,
        unreadable=unreadable,
    )


def _evaluations(directory: Path, unreadable: list[str]) -> dict[str, Evaluation]:
    """The newest of each kind, whichever checkpoint it is of."""
    steps = sorted(
        int(path.name.removeprefix("step-")) for path in directory.glob("step-*") if path.name[5:].isdecimal()
    )
    found = {}
    for step in steps:
        for name in EVALUATIONS:
            results = _json(directory / f"step-{step}" / f"{name}.json", unreadable)
            if isinstance(results, dict):
                found[name] = Evaluation(step, results)
    return found


def _lines(path: Path, unreadable: list[str]) -> list[dict[str, Any]]:
    """The lines of metrics; one that a crash, or a run that is going on, has cut short is left out."""
    text = _text(path, unreadable) or ""
    found = []
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        try:
            values = json.loads(line)
            if not isinstance(values["step"], int):
                raise TypeError("step is no number")
            found.append(values)
        except (ValueError, KeyError, TypeError) as error:
            if line.endswith("\n"):
                unreadable.append(f"{path}, line {number}: {error}")
    return sorted(found, key=lambda values: values["step"])


def _json(path: Path, unreadable: list[str]) -> Any:
    text = _text(path, unreadable)
    if text is None:
        return None
    try:
        return json.loads(text)
    except ValueError as error:
        unreadable.append(f"{path}: {error}")
        return None


def _text(path: Path, unreadable: list[str]) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        unreadable.append(f"{path}: {error}")
        return None


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """The leaves of a configuration as JSON has it, by path; lists of plain values are leaves."""
    if isinstance(value, Mapping):
        return {k: v for name, item in value.items() for k, v in flat(item, f"{path}.{name}" if path else name).items()}
    if isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
        return {k: v for index, item in enumerate(value) for k, v in flat(item, f"{path}.{index}").items()}
    return {path: value}
