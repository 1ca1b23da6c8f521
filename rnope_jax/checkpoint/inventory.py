"""What checkpoints a run has, in what condition, and which of them may go."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rnope_jax.checkpoint import integrity
from rnope_jax.checkpoint.reading import examine
from rnope_jax.checkpoint.steps import aside, remove, steps_in
from rnope_jax.config import Config
from rnope_jax.errors import UserError
from rnope_jax.run import Run, only_process

#: Conditions, from a look at sizes or at all contents.
WHOLE, COMPLETE, UNVERIFIED, DAMAGED, ASIDE = "whole", "complete", "unverified", "damaged", "set aside"


@dataclass(frozen=True)
class Entry:
    """One checkpoint."""

    name: str
    """Its step; for one that was set aside the name of its directory."""
    written: str
    """When, in UTC."""
    bytes: int
    """Of all its files."""
    condition: str
    """"whole": all files are as they were written. "complete": their sizes are, contents were not looked at.
    "unverified": there is no integrity file to compare with. "damaged". "set aside": damaged, and found by a run."""
    detail: str | None
    """What is damaged."""
    stage: str
    """That took its last step."""


@dataclass(frozen=True)
class Plan:
    """What pruning removes."""

    remove: list[int]
    """Steps."""
    bytes: int
    """What they take up."""
    good: int
    """The newest step that was found whole, which stays."""


def inventory(run: Run, *, verify: bool = False) -> Iterator[Entry]:
    """The checkpoints of a run, rising, then those that were set aside; each as soon as it was looked at.

    Args:
      run: the run.
      verify: reads all files; otherwise their sizes are compared.

    Raises:
      UserError: if there is no checkpoint.
    """
    steps = steps_in(run.checkpoints)
    config = run.config  # says so if this is no run
    if not steps and not aside(run.checkpoints):
        raise UserError(f"{run.checkpoints} holds no checkpoint yet: let the run reach its first one")
    for step in steps:
        path = run.checkpoints / str(step)
        condition, detail = _condition(path, verify)
        yield Entry(str(step), _written(path), _bytes(path), condition, detail, _stage(config, step))
    for path in aside(run.checkpoints):
        yield Entry(path.name, _written(path), _bytes(path), ASIDE, None, "")


def plan(run: Run, keep: int) -> Plan:
    """What is removed if the newest `keep` checkpoints stay, and the newest good one whichever it is.

    Raises:
      UserError: if none is good: then nothing may go.
    """
    if keep < 1:
        raise UserError(f"prune = {keep}: keep at least 1")
    run.config  # noqa: B018 (says so if this is no run)
    steps = steps_in(run.checkpoints)
    if not steps:
        raise UserError(f"{run.checkpoints} holds no checkpoint yet: let the run reach its first one")
    good = next((step for step in reversed(steps) if examine(run.checkpoints / str(step)).damage is None), None)
    if good is None:
        raise UserError(
            f"none of the checkpoints {steps} is whole; "
            f"nothing was removed. `rnope checkpoints {run.path} --verify` tells what is damaged"
        )
    going = [step for step in steps[:-keep] if step != good]
    return Plan(going, sum(_bytes(run.checkpoints / str(step)) for step in going), good)


def prune(run: Run, keep: int) -> Plan:
    """Removes what `plan` tells.

    Raises:
      UserError: if a process trains in the run, or none of its checkpoints is good.
    """
    run.config  # noqa: B018 (says so if this is no run, before a lock is put there)
    with only_process(run):
        made = plan(run, keep)
        remove(run.checkpoints, made.remove)
    return made


def _condition(path: Path, verify: bool) -> tuple[str, str | None]:
    if verify:
        finding = examine(path)
        if finding.damage is not None:
            return DAMAGED, finding.damage
        return (WHOLE if finding.sealed else UNVERIFIED), None
    if not integrity.is_sealed(path):
        return UNVERIFIED, None
    damage = integrity.damage(path, contents=False)
    return (COMPLETE if damage is None else DAMAGED), damage


def _written(path: Path) -> str:
    stamp = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    return integrity.written(path) or stamp.strftime("%Y-%m-%d %H:%M:%S")


def _bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _stage(config: Config, step: int) -> str:
    return config.stages[config.stage_at(step - 1)].name if 0 < step <= config.total_steps else "?"
