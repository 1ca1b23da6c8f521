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
from rnope_jax.evaluation.lengths import Planned, lengths_for, planned
from rnope_jax.evaluation.records import results_of
from rnope_jax.evaluation.ruler import material
from rnope_jax.evaluation.ruler import measure as ruler_measure
from rnope_jax.evaluation.settings import Settings
from rnope_jax.files import write_text
from rnope_jax.inference import TextModel
from rnope_jax.run import Run

#: Samples unless told otherwise.
_ROWS, _NEEDLES, _SAMPLES = 16, 5, 20


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
    plan = _Plan(model, directory, settings, report)
    with results_of(model, out):
        for name, run in plan.evaluations(out).items():
            result, table, figure = run()
            about = {"step": model.step, "training_context": model.context, "dtype": model.config.compute_dtype}
            data = {
                "model": {"path": str(directory), **about},
                "settings": settings.to_dict() | {"lengths": plan.lengths[name]},
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

    def __init__(self, model: TextModel, directory: Path, settings: Settings, report: Callable[[str], None]):
        self._model, self._settings, self._report = model, settings, report
        self.lengths: dict[str, tuple[int, ...]] = {}
        self._title = f"{directory.absolute().name}, step {model.step}" if model.step else directory.absolute().name
        if settings.loss_by_position:
            run = Run(directory)
            config = run.config if run.checkpoints.exists() or run.imported.exists() else None
            texts = position.texts(model, directory, config, settings.text)
            most = settings.samples or _ROWS
            self._rows = self._at("loss_by_position", lambda at: position.rows_of(model, texts, at[-1], most))
        if settings.needle or settings.ruler is not None:
            seed = settings.seed
            made = material(settings.haystack, settings.squad, settings.hotpotqa)
        if settings.needle:
            depths = settings.depths
            self._needles = self._at("needle", lambda at: needles.generators(model, at, depths, made, seed))
        if settings.ruler is not None:
            names = ruler_measure.names(settings.ruler)
            self._tasks = self._at("ruler", lambda at: ruler_measure.generators(model, names, at, made, seed))

    def _at(self, name: str, plan: Callable[[tuple[int, ...]], Planned]) -> Planned:
        """The plan of an evaluation, at the lengths that were asked for, or at those that it can have."""
        asked = tuple(sorted(set(self._settings.lengths)))
        otherwise = lengths_for(self._model.context)
        self.lengths[name], made = planned(asked, otherwise, plan, lambda told: self._report(f"{name}: {told}"))
        return made

    def evaluations(self, out: Path) -> dict[str, Callable[[], tuple]]:
        """By name, what gives results as JSON, a table and a figure."""
        settings, asked = self._settings, {}
        if settings.loss_by_position:
            asked["loss_by_position"] = lambda: self._loss(out)
        if settings.needle:
            asked["needle"] = lambda: self._needle(out)
        if settings.ruler is not None:
            asked["ruler"] = lambda: self._ruler(out)
        return asked

    def _loss(self, out: Path) -> tuple:
        model = self._model
        file = out / "loss_by_position.jsonl"
        lengths, batch_tokens = self.lengths["loss_by_position"], self._settings.batch_tokens
        found = position.measure(model, self._rows, lengths, file, batch_tokens=batch_tokens, report=self._report)
        title = f"{self._title}: loss by position, {found.rows} rows"
        return found.to_dict(), tables.loss_table(found, model.context), plots.loss_curve(found, model.context, title)

    def _cells(
        self, wanted: Sequence[ruler_measure.Generator], samples: int, out: Path
    ) -> tuple[ruler_measure.Cell, ...]:
        """Answers to tasks; `samples` of each, where the settings do not say how many."""
        settings = self._settings
        return ruler_measure.measure(
            self._model,
            wanted,
            settings.samples or samples,
            out,
            batch_tokens=settings.batch_tokens,
            report=self._report,
        )

    def _needle(self, out: Path) -> tuple:
        model = self._model
        found = needles.found(self._cells(self._needles, _NEEDLES, out / "needle"), self._settings.depths)
        figure = plots.heat_map(found, model.context, f"{self._title}: needle in a haystack")
        return found.to_dict(), tables.needle_table(found, model.context), figure

    def _ruler(self, out: Path) -> tuple:
        model = self._model
        found = ruler_measure.Ruler(self._cells(self._tasks, _SAMPLES, out / "ruler"))
        figure = plots.score_lines(found, model.context, f"{self._title}: RULER")
        return found.to_dict(), tables.ruler_table(found, model.context), figure
