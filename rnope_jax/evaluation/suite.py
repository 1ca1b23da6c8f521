"""Evaluations of one model: checked as a whole before anything runs, then run one after the other.

    OUT/model.json               which model the results belong to
    OUT/loss_by_position.json    and .jsonl, the losses of each row
    OUT/needle.json              and needle/LENGTH/depth_DEPTH.jsonl, each answer
    OUT/ruler.json               and ruler/LENGTH/TASK.jsonl, each answer
    OUT/lm_eval.json             and lm_eval/TASK.jsonl, each sample

Results of single samples are kept as they come; the same command goes on from there. The JSON files
and the figures are made when an evaluation is complete.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from rnope_jax.evaluation import needle as needles
from rnope_jax.evaluation import plots, position, tables
from rnope_jax.evaluation.records import results_of
from rnope_jax.evaluation.ruler import material
from rnope_jax.evaluation.ruler import measure as ruler_measure
from rnope_jax.evaluation.settings import Settings
from rnope_jax.files import write_text
from rnope_jax.inference import TextModel
from rnope_jax.run import Run

#: Lengths in multiples of the longest row of training.
_MULTIPLES = (0.5, 1, 2, 4, 8)
#: What is taken for that where nothing is known, and the shortest that is taken unasked.
_CONTEXT, _SHORTEST = 1024, 256

#: Samples unless told otherwise.
_ROWS, _NEEDLES, _SAMPLES = 16, 5, 20


def lengths_for(context: int) -> tuple[int, ...]:
    """Lengths within and past the longest row of training."""
    found = {int((context or _CONTEXT) * multiple) for multiple in _MULTIPLES}
    return tuple(sorted(length for length in found if length >= _SHORTEST)) or (_SHORTEST,)


def evaluate(
    model: TextModel,
    directory: Path,
    settings: Settings,
    *,
    out: Path | None = None,
    report: Callable[[str], None] = print,
    console: Console | None = None,
) -> Path:
    """Runs evaluations, writes their results and shows them.

    Args:
      model: the model of `directory`.
      directory: a run, or Hugging Face files.
      settings: what is evaluated.
      out: where results go; None: into `directory`, as evaluations/step-STEP, and figures into figures/.
      report: told how far it has got.
      console: where tables are shown.

    Returns:
      The directory of the results.

    Raises:
      UserError: if the settings, the sources or the directory cannot be used; before anything is computed.
    """
    settings.check()
    console = console or Console(highlight=False)
    figures = directory / "figures" if out is None else out / "figures"
    out = out or default_directory(model, directory)
    lengths = tuple(sorted(set(settings.lengths))) or lengths_for(model.context)
    planned = _Plan(model, directory, settings, lengths)
    with results_of(model, out):
        for name, run in planned.evaluations(out, report).items():
            result, table, figure = run()
            about = {"step": model.step, "training_context": model.context, "dtype": model.config.compute_dtype}
            data = {
                "model": {"path": str(directory), **about},
                "settings": settings.to_dict() | {"lengths": lengths},
                **result,
            }
            write_text(out / f"{name}.json", json.dumps(data, indent=2) + "\n")
            console.print()
            console.print(table)
            report(f"figure: {plots.save(figure, figures / f'{name}.png')}")
    return out


def default_directory(model: TextModel, directory: Path) -> Path:
    """Where the results of a model go unless told otherwise."""
    return directory / "evaluations" / f"step-{model.step}"


class _Plan:
    """Everything that can fail before a model is run has been done when this is made."""

    def __init__(self, model: TextModel, directory: Path, settings: Settings, lengths: tuple[int, ...]):
        self._model, self._settings, self._lengths = model, settings, lengths
        self._title = f"{directory.absolute().name}, step {model.step}" if model.step else directory.absolute().name
        if settings.loss_by_position:
            run = Run(directory)
            config = run.config if run.checkpoints.exists() or run.imported.exists() else None
            texts = position.texts(model, directory, config, settings.text)
            self._rows = position.rows_of(model, texts, lengths[-1], settings.samples or _ROWS)
        if settings.needle or settings.ruler is not None:
            made = material(settings.haystack, settings.squad, settings.hotpotqa)
        if settings.needle:
            self._needles = needles.generators(model, lengths, settings.depths, made, settings.seed)
        if settings.ruler is not None:
            names = ruler_measure.names(settings.ruler)
            self._tasks = ruler_measure.generators(model, names, lengths, made, settings.seed)

    def evaluations(self, out: Path, report: Callable[[str], None]) -> dict[str, Callable[[], tuple]]:
        """By name, what gives results as JSON, a table and a figure."""
        settings, asked = self._settings, {}
        if settings.loss_by_position:
            asked["loss_by_position"] = lambda: self._loss(out, report)
        if settings.needle:
            asked["needle"] = lambda: self._needle(out, report)
        if settings.ruler is not None:
            asked["ruler"] = lambda: self._ruler(out, report)
        return asked

    def _loss(self, out: Path, report: Callable[[str], None]) -> tuple:
        model = self._model
        file = out / "loss_by_position.jsonl"
        found = position.measure(
            model, self._rows, self._lengths, file, batch_tokens=self._settings.batch_tokens, report=report
        )
        title = f"{self._title}: loss by position, {found.rows} rows"
        return found.to_dict(), tables.loss_table(found, model.context), plots.loss_curve(found, model.context, title)

    def _cells(
        self, wanted: Sequence[ruler_measure.Generator], samples: int, out: Path, report: Callable[[str], None]
    ) -> tuple[ruler_measure.Cell, ...]:
        """Answers to tasks; `samples` of each, where the settings do not say how many."""
        settings = self._settings
        return ruler_measure.measure(
            self._model,
            wanted,
            settings.samples or samples,
            out,
            batch_tokens=settings.batch_tokens,
            report=report,
        )

    def _needle(self, out: Path, report: Callable[[str], None]) -> tuple:
        model = self._model
        found = needles.found(self._cells(self._needles, _NEEDLES, out / "needle", report), self._settings.depths)
        figure = plots.heat_map(found, model.context, f"{self._title}: needle in a haystack")
        return found.to_dict(), tables.needle_table(found, model.context), figure

    def _ruler(self, out: Path, report: Callable[[str], None]) -> tuple:
        model = self._model
        found = ruler_measure.Ruler(self._cells(self._tasks, _SAMPLES, out / "ruler", report))
        figure = plots.score_lines(found, model.context, f"{self._title}: RULER")
        return found.to_dict(), tables.ruler_table(found, model.context), figure
