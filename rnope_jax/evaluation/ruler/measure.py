"""RULER's scores of a model."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from rnope_jax.errors import UserError
from rnope_jax.evaluation.answers import continuations
from rnope_jax.evaluation.records import Record, Records
from rnope_jax.evaluation.ruler.sources import Material
from rnope_jax.evaluation.ruler.tasks import TASKS, Generator
from rnope_jax.inference import TextModel

#: Groups of tasks that can be asked for by one name, and whose means are reported.
GROUPS = {
    **{
        category: tuple(name for name, task in TASKS.items() if task.category == category)
        for category in dict.fromkeys(task.category for task in TASKS.values())
    },
    "all": tuple(TASKS),
}


#: Seconds between reports of progress.
_QUIET = 10.0


@dataclass(frozen=True)
class Cell:
    """The score of a task at a length."""

    task: str
    length: int
    score: float
    """Mean over samples, between 0 and 100."""
    error: float
    """Standard error of the mean."""
    samples: int
    as_defined: bool
    """Whether the task is NVIDIA's; false where the budget is too small for it (`tasks`)."""


@dataclass(frozen=True)
class Ruler:
    """Scores of all tasks at all lengths."""

    cells: tuple[Cell, ...]

    @property
    def lengths(self) -> list[int]:
        """Budgets, rising."""
        return sorted({cell.length for cell in self.cells})

    @property
    def tasks(self) -> list[str]:
        """Tasks, in RULER's order."""
        return [name for name in TASKS if any(cell.task == name for cell in self.cells)]

    def cell(self, task: str, length: int) -> Cell:
        """The score of a task at a length."""
        return next(cell for cell in self.cells if (cell.task, cell.length) == (task, length))

    def mean(self, group: str, length: int) -> float | None:
        """Mean score of a group of tasks at a length; None unless all of them were measured."""
        if not set(GROUPS[group]) <= set(self.tasks):
            return None
        return fmean(self.cell(task, length).score for task in GROUPS[group])

    @property
    def groups(self) -> list[str]:
        """Groups of tasks that were measured as a whole."""
        return [group for group in GROUPS if self.mean(group, self.lengths[0]) is not None]

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "cells": [asdict(cell) for cell in self.cells],
            "means": {group: {str(n): self.mean(group, n) for n in self.lengths} for group in self.groups},
        }


def names(asked: Sequence[str]) -> list[str]:
    """The tasks that are meant by names of tasks and groups; all for none.

    Raises:
      UserError: if there is no such task.
    """
    found: list[str] = []
    for name in asked or ("all",):
        if name not in TASKS and name not in GROUPS:
            raise UserError(
                f"--ruler {name}: there is no such task; there are {', '.join(TASKS)}, and the groups "
                + ", ".join(repr(group) for group in GROUPS)
            )
        found += GROUPS.get(name, (name,))
    return [name for name in TASKS if name in found]


def generators(
    model: TextModel, tasks: Sequence[str], lengths: Sequence[int], material: Material, seed: int
) -> list[Generator]:
    """A generator for each length and task.

    Raises:
      UserError: if a length is too small for a task.
    """
    return [Generator(TASKS[task], length, model.tokenizer, material, seed) for length in lengths for task in tasks]


def measure(
    model: TextModel,
    wanted: Sequence[Generator],
    samples: int,
    directory: Path,
    *,
    batch_tokens: int,
    report: Callable[[str], None] = print,
) -> tuple[Cell, ...]:
    """Measures tasks; what an interrupted evaluation has answered already is taken from its files.

    Every task at every length gets a file LENGTH/TASK.jsonl with the fields that NVIDIA's
    scripts/eval/evaluate.py reads.

    Args:
      model: the model.
      wanted: what is measured.
      samples: of each.
      directory: where the files are.
      batch_tokens: most tokens that are computed together.
      report: told how far it has got, now and then.

    Raises:
      UserError: if a file holds answers to other samples.
    """
    cells: list[Cell] = []
    for length in dict.fromkeys(generator.length for generator in wanted):
        files = [_File(generator, samples, directory) for generator in wanted if generator.length == length]
        # All samples of a length together: more of them fit into batches than those of one task.
        entries = [(file, sample) for file in files for sample in file.samples]
        prompts = [[model.tokenizer.bos_id, *model.tokenizer.encode(sample.prompt)] for _, sample in entries]
        tokens = [sample.tokens_to_generate for _, sample in entries]
        done = {number for number, (file, sample) in enumerate(entries) if sample.index in file.known}
        told = time.monotonic()
        for batch in continuations(model, prompts, tokens, batch_tokens=batch_tokens, done=done):
            done |= batch.keys()
            for file in files:
                file.add({entries[n][1].index: answer for n, answer in batch.items() if entries[n][0] is file})
            if time.monotonic() - told > _QUIET:
                told = time.monotonic()
                report(f"{directory.name} at {length:,} tokens: {len(done)} of {len(entries)} answers")
        own = [file.finish() for file in files]
        report(f"{directory.name} at {length:,} tokens: {fmean(cell.score for cell in own):.1f}")
        cells += own
    return tuple(cells)


class _File:
    """The samples of one task and length, and the answers to them."""

    def __init__(self, generator: Generator, samples: int, directory: Path):
        self._generator = generator
        self._records = Records(directory / str(generator.length) / f"{generator.task.name}.jsonl")
        self.known: dict[int, Record] = {record["index"]: record for record in self._records.found}
        self.samples = list(generator.samples(samples))
        for sample in self.samples:
            record = self.known.get(sample.index)
            if record and (record["input"], record["answer_prefix"]) != (sample.input, sample.answer_prefix):
                raise UserError(
                    f"{self._records.path}: holds the answer to another sample {sample.index}, of another seed or "
                    "other sources; give another directory with --out"
                )

    def add(self, answers: Mapping[int, str]) -> None:
        """Keeps answers by the index of their sample."""
        made = {}
        for index, answer in answers.items():
            if index not in self.known:
                sample = self.samples[index]
                score = self._generator.task.score(answer, sample.outputs)
                made[index] = {**asdict(sample), "outputs": list(sample.outputs), "pred": answer, "score": score}
        if made:
            self._records.append(list(made.values()))
            self.known |= made

    def finish(self) -> Cell:
        """Puts the file in order, and tells the score."""
        self._records.finish([self.known[index] for index in sorted(self.known)])
        scores = [self.known[sample.index]["score"] for sample in self.samples]
        count, mean = len(scores), fmean(scores)
        variance = sum((score - mean) ** 2 for score in scores) / max(1, count - 1)
        return Cell(
            task=self._generator.task.name,
            length=self._generator.length,
            score=100 * mean,
            error=100 * (variance / count) ** 0.5,
            samples=count,
            as_defined=self._generator.variant is self._generator.task.variants[0],
        )
