"""`rnope analyze`: where a model attends."""

import sys
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import FlagCreatePairsOff, Positional, arg

#: Columns of the tables where they do not go to a terminal.
_WIDTH = 160


def analyze(
    models: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN [RUN ...]")],
    /,
    *,
    lengths: tuple[int, ...] = (),
    depth: tuple[float, ...] = (50.0,),
    samples: int = 4,
    seed: int = 0,
    haystack: str | None = None,
    per_head: Annotated[bool, FlagCreatePairsOff] = False,
    dtype: Literal["float32", "bfloat16"] | None = None,
    out: Path | None = None,
    trust_checkpoint: Annotated[bool, FlagCreatePairsOff] = False,
) -> None:
    """Show where models attend when they answer a question about a fact in a long text.

    Attention of the question and its true answer is divided over the first 10 tokens, the fact, the
    other text, and question and answer themselves, over all layers and over those with and without
    rotary positions. Also its entropy, its weight by position, and the heads that find the fact.
    Tables are printed; RUN/evaluations/step-STEP/attention.json and figures in RUN/figures keep everything.
    An analysis that was interrupted goes on, text by text, with the same command.

    Args:
      models: run directories, or directories of Hugging Face files; several are laid side by side.
      lengths: tokens of the texts; none takes 1, 2 and 4 times the longest row of training.
      depth: where the fact is, in percent of the text before the question; tables and curves show the first.
      samples: texts for each length and depth.
      seed: of facts and passages.
      haystack: text file, directory or "stdlib" to hide facts in; none takes the Python language reference.
      per_head: keep and draw what was found of every head.
      dtype: type of weights, activations and cache. None: the model's.
      out: directory for attention.json, and figures/ there for figures; none takes those of the first model.
      trust_checkpoint: do not verify the files of checkpoints before they are read.
    """
    from rich.console import Console

    from rnope_jax.errors import UserError
    from rnope_jax.evaluation import analysis
    from rnope_jax.evaluation.analysis.figures import figures
    from rnope_jax.evaluation.analysis.haystack import read_haystack
    from rnope_jax.evaluation.analysis.kept import forget
    from rnope_jax.evaluation.analysis.results import to_dict
    from rnope_jax.evaluation.analysis.tables import tables
    from rnope_jax.evaluation.outcome import check_place, leave

    if not models:
        raise UserError("there is no model: give at least one run")
    check_place(models[0] if out is None else out)
    question = analysis.Question(
        haystack=read_haystack(haystack),
        lengths=lengths,
        depths=tuple(percent / 100 for percent in depth),
        samples=samples,
        seed=seed,
        per_head=per_head,
    )
    partial = (models[0] / "evaluations" if out is None else out) / "attention.partial"
    found = analysis.analyze(
        models,
        question,
        partial=partial,
        dtype=dtype,
        trust_checkpoint=trust_checkpoint,
        report=lambda line: print(line, file=sys.stderr, flush=True),
    )
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDTH)  # a file has no width to respect
    for table in tables(found, question.depths[0]):
        console.print(table)
    settings = {
        "samples": samples,
        "seed": seed,
        "haystack": haystack or "Python language reference",
        "depths": list(question.depths),
        "dtype": dtype,
    }
    numbers = (models[0] / "evaluations" / f"step-{found[0].step}" if out is None else out) / "attention.json"
    pictures = (models[0] if out is None else out) / "figures"
    for path in leave(numbers, to_dict(found, settings), pictures, figures(found, question.depths[0])):
        print(path)
    forget(partial)
