"""What was measured of the runs of a study, by variant and seed."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from rnope_jax.errors import UserError
from rnope_jax.evaluation.analysis.results import Analysis, from_dict

#: What `rnope evaluate` and `rnope analyze` leave of a run, and is read here.
FILES = ("loss_by_position.json", "needle.json", "ruler.json", "attention.json")


@dataclass(frozen=True)
class Run:
    """A run of a study that was measured."""

    variant: str
    seed: int
    results: Path
    """Directory with `FILES`."""


@dataclass(frozen=True)
class Measured:
    """Numbers of one run."""

    run: Run
    values: Mapping[tuple[str, int], float]
    """By quantity and length in tokens: "loss", "late loss", "needle", "ruler", and for each group of layers G
    "G mass P", with P a part of the text, "G entropy" and "G relative entropy"."""
    positions: tuple[tuple[float, float], ...]
    """Position and loss there."""
    depths: tuple[float, ...]
    """Of the needles, in percent."""
    needles: Mapping[int, tuple[float, ...]]
    """Share of needles that was found, by length and depth, between 0 and 100."""
    analysis: Analysis
    """Attention, under the name of the variant."""


@dataclass(frozen=True)
class Findings:
    """All runs of a study."""

    runs: tuple[Measured, ...]

    @property
    def variants(self) -> list[str]:
        """In the order in which they were given."""
        return list(dict.fromkeys(found.run.variant for found in self.runs))

    @property
    def seeds(self) -> list[int]:
        """Rising."""
        return sorted({found.run.seed for found in self.runs})

    @property
    def lengths(self) -> list[int]:
        """Rising."""
        return sorted({length for found in self.runs for _, length in found.values})

    def of(self, variant: str) -> list[Measured]:
        """The runs of a variant."""
        return [found for found in self.runs if found.run.variant == variant]

    def value(self, variant: str, seed: int, quantity: str, length: int) -> float | None:
        """A number of one run; None where it was not measured."""
        for found in self.of(variant):
            if found.run.seed == seed:
                return found.values.get((quantity, length))
        return None

    def mean(self, variant: str, quantity: str, length: int) -> tuple[float, float] | None:
        """Mean over seeds and standard deviation between them (NaN of one seed); None where it was not measured."""
        values = [found.values[quantity, length] for found in self.of(variant) if (quantity, length) in found.values]
        if not values:
            return None
        return fmean(values), stdev(values) if len(values) > 1 else math.nan


def read(runs: Iterable[Run]) -> Findings:
    """Reads the results of runs.

    Raises:
      UserError: if one is missing or was measured with other settings than the first.
    """
    measured, settings = [], None
    for run in runs:
        data = {name: _read(run.results / name) for name in FILES}
        own = [{**found["settings"], "out": None} for found in data.values()]
        if settings is not None and own != settings:
            raise UserError(
                f"{run.results}: was measured with other settings than the runs before it; move it away to measure anew"
            )
        settings = own
        needle, attention = data["needle.json"], from_dict(data["attention.json"]["models"][0])
        by_depth = zip(*needle["scores"], strict=True)
        measured.append(
            Measured(
                run=run,
                values=dict(_values(data)),
                positions=tuple(
                    ((found["from"] + found["to"]) / 2, found["loss"])
                    for found in data["loss_by_position.json"]["by_position"]
                ),
                depths=tuple(needle["depths"]),
                needles={length: tuple(scores) for length, scores in zip(needle["lengths"], by_depth, strict=True)},
                analysis=replace(attention, model=run.variant),
            )
        )
    return Findings(tuple(measured))


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as results ({error})") from error


def _values(data: Mapping[str, Any]) -> Iterator[tuple[tuple[str, int], float]]:
    for found in data["loss_by_position.json"]["by_length"]:
        yield ("loss", found["length"]), found["loss"]
        yield ("late loss", found["length"]), found["loss_last_quarter"]
    needle = data["needle.json"]
    for length, scores in zip(needle["lengths"], zip(*needle["scores"], strict=True), strict=True):
        yield ("needle", length), fmean(scores)
    cells = data["ruler.json"]["cells"]
    for length in {cell["length"] for cell in cells}:
        yield ("ruler", length), fmean(cell["score"] for cell in cells if cell["length"] == length)
    for found in _at_first_depth(data["attention.json"]["models"][0]["findings"]):
        for group, average in found["groups"].items():
            for part, mass in average["mass"].items():
                yield (f"{group} mass {part}", found["length"]), mass
            yield (f"{group} entropy", found["length"]), average["entropy_bits"]
            yield (f"{group} relative entropy", found["length"]), average["relative_entropy"]


def _at_first_depth(findings: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    yield from (found for found in findings if found["depth"] == findings[0]["depth"])
