"""A needle in a haystack: what a model finds, by how long the haystack is and how deep the needle lies.

The needle, the question and the beginning of the answer are those of RULER's `niah_single_2`; the
needle stands at the end of a sentence, at the given share of all sentences.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from rnope_jax.evaluation.ruler import TASKS, Generator, Material
from rnope_jax.evaluation.ruler.measure import Cell
from rnope_jax.evaluation.ruler.niah import Needles, variants
from rnope_jax.inference import TextModel


@dataclass(frozen=True)
class Found:
    """Share of needles that were found, for each length and depth."""

    lengths: tuple[int, ...]
    depths: tuple[float, ...]
    scores: tuple[tuple[float, ...], ...]
    """By depth, then by length, between 0 and 100."""
    samples: int
    """Needles for each length and depth."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "lengths": list(self.lengths),
            "depths": list(self.depths),
            "scores": [list(row) for row in self.scores],
            "samples": self.samples,
            "mean": fmean(score for row in self.scores for score in row),
        }


def generators(
    model: TextModel, lengths: Sequence[int], depths: Sequence[float], material: Material, seed: int
) -> list[Generator]:
    """A generator for each length and depth.

    Raises:
      UserError: if a length is too small.
    """

    def at(length: int, depth: float) -> Generator:
        needle = variants(Needles("essay", depth=depth))
        task = replace(TASKS["niah_single_2"], name=_name(depth), variants=needle)
        return Generator(task, length, model.tokenizer, material, seed)

    return [at(length, depth) for length in lengths for depth in depths]


def _name(depth: float) -> str:
    return f"depth_{depth:g}"


def found(cells: Sequence[Cell], depths: Sequence[float]) -> Found:
    """The scores of needles, as `ruler.measure` gives them, by length and depth."""
    scores = {(cell.task, cell.length): cell.score for cell in cells}
    lengths = tuple(dict.fromkeys(cell.length for cell in cells))
    rows = tuple(tuple(scores[_name(depth), length] for length in lengths) for depth in depths)
    return Found(lengths, tuple(depths), rows, cells[0].samples)
