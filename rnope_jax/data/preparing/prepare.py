"""Preparing from beginning to end: the plan, the parts, the index."""

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rnope_jax.data import seal, tokenizer
from rnope_jax.data.preparing import merging, part, plan
from rnope_jax.data.preparing.plan import DEFAULTS, Options, Plan
from rnope_jax.data.preparing.tolerance import NONE, Tolerance
from rnope_jax.data.preparing.workers import Progress, Work
from rnope_jax.data.tokenizer import Tokenizer
from rnope_jax.errors import UserError
from rnope_jax.files import write_text

_PLAN = "plan.json"

#: What a process that was killed may have left where nothing is begun yet.
_LEFT = {"tokenizer", ".tokenizer.partial", ".plan.json.partial"}


@dataclass(frozen=True)
class Job:
    """One of several that share the work: it does each `of`-th part."""

    number: int = 0
    of: int = 1

    @classmethod
    def parse(cls, text: str) -> "Job":
        """Reads "I/N", I from 0 to N - 1.

        Raises:
          UserError: if it is something else.
        """
        number, _, of = text.partition("/")
        if not (number.isdecimal() and of.isdecimal() and int(number) < int(of)):
            raise UserError(f"job = {text!r}: must be I/N with I from 0 to N - 1, such as 0/16")
        return cls(int(number), int(of))


def prepare(
    paths: Sequence[str],
    out: Path,
    made_with: Tokenizer,
    options: Options = DEFAULTS,
    *,
    workers: int = 1,
    job: Job | None = None,
    tolerance: Tolerance = NONE,
    progress: Callable[[Progress], None] = lambda progress: None,
) -> dict[str, Any] | None:
    """Prepares a corpus, or goes on with it.

    Args:
      paths: files and directories; "stdlib" stands for the sources of Python's standard library.
      out: directory to make.
      made_with: the tokenizer.
      options: what decides the result.
      workers: processes; 1 works in this one.
      job: does only its share of the parts; `merge` ends the work when all jobs are done.
      tolerance: how many records may be bad.
      progress: is told of it about twice a second.

    Returns:
      the index; None for a job of several.

    Raises:
      UserError: if the input cannot be used, too much of it is bad, or `out` is of something else.
    """
    for path in paths:
        if Path(path).is_dir() and out.resolve().is_relative_to(Path(path).resolve()):
            raise UserError(f"{out} lies within {path}, which is read; choose a place outside of it")
        if (Path(path) / _PLAN).is_file():
            raise UserError(f"{path} is prepared already; give it as data.corpus")
    wanted = _begin(out, plan.make(paths, options, made_with.fingerprint), made_with)
    if (out / "index.json").exists():
        return seal.read(out / "index.json")
    (out / "parts").mkdir(exist_ok=True)
    share = job or Job()
    Work(out, wanted, range(share.number, len(wanted.units), share.of), tolerance, progress).run(workers)
    return merge(out, tolerance) if job is None else None


def merge(out: Path, tolerance: Tolerance = NONE) -> dict[str, Any]:
    """Ends the work when all parts are there; returns the index.

    Raises:
      UserError: if parts are missing, too much is bad, or nothing is left.
    """
    if (out / "index.json").exists():
        return seal.read(out / "index.json")
    wanted = _read_plan(out)
    if wanted is None:
        raise UserError(f"{out} holds no {_PLAN}: `rnope prepare INPUT... {out}` begins the work")
    missing = [number for number in range(len(wanted.units)) if not part.path(out, number).exists()]
    if missing:
        raise UserError(
            f"{out} is not complete: {len(missing)} of {len(wanted.units)} parts are missing, the first is "
            f"{missing[0]}; run the jobs again that did not finish, they go on where they were"
        )
    with _held(out):
        return merging.merge(out, wanted, tolerance)


def _begin(out: Path, wanted: Plan, made_with: Tokenizer) -> Plan:
    """Writes the plan, or compares it with the one that is there."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; give a directory to make")
    out.mkdir(parents=True, exist_ok=True)
    with _held(out):
        found = _read_plan(out)
        if found is None:
            if others := {path.name for path in out.iterdir()} - _LEFT:
                raise UserError(f"{out} holds something else ({min(others)}); choose a directory that is not there yet")
            if not (out / "tokenizer").exists():
                made_with.save(out / "tokenizer")
            if tokenizer.load(out / "tokenizer").fingerprint != wanted.tokenizer:
                raise UserError(f"{out}/tokenizer is another tokenizer; choose a directory that is not there yet")
            write_text(out / _PLAN, json.dumps(wanted.to_json()) + "\n")
            return wanted
    if (difference := found.difference(wanted)) is not None:
        raise UserError(f"{out} was begun with something else: {difference}; choose another directory, or delete it")
    return found


def _read_plan(out: Path) -> Plan | None:
    try:
        return plan.from_json(json.loads((out / _PLAN).read_text()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{out}/{_PLAN} cannot be read ({error}); choose another directory") from error


@contextlib.contextmanager
def _held(out: Path) -> Iterator[None]:
    """One process at a time, where the file system can."""
    handle = os.open(out, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
