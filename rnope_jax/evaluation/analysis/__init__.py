"""Where a trained model attends: the paper's analysis of attention mass, entropy and recency."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rnope_jax.data import tokenizer
from rnope_jax.errors import UserError
from rnope_jax.evaluation.analysis.kept import Kept
from rnope_jax.evaluation.analysis.measure import measure
from rnope_jax.evaluation.analysis.probe import Haystack, Probe, probes
from rnope_jax.evaluation.analysis.results import Analysis, summarize
from rnope_jax.evaluation.lengths import planned
from rnope_jax.evaluation.records import fingerprint
from rnope_jax.inference import load
from rnope_jax.inference.layout import ComputeDtype
from rnope_jax.interop import open_source

#: Lengths that are measured where none are given, as multiples of the longest row of training.
MULTIPLES = (1, 2, 4)


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is to be measured."""

    haystack: str
    """Text in which facts are hidden."""
    lengths: tuple[int, ...] = ()
    """Tokens of each text; none takes multiples of the longest row that the first model was trained on, without those
    that are too short for fact and question."""
    depths: tuple[float, ...] = (0.5,)
    """Where facts are, as shares of the text before the question."""
    samples: int = 4
    """Texts for each length and depth."""
    seed: int = 0
    """Of facts and passages."""
    per_head: bool = False
    """Whether to keep what was found of every head."""

    def __post_init__(self) -> None:
        if any(length < 1 for length in self.lengths):
            raise UserError(f"lengths = {list(self.lengths)}: must be at least 1 token")
        if not self.depths or any(not 0 <= depth <= 1 for depth in self.depths):
            raise UserError(f"depths = {[100 * depth for depth in self.depths]}: must be between 0 and 100 percent")
        if self.samples < 1:
            raise UserError(f"samples = {self.samples}: must be at least 1")


def analyze(
    models: Sequence[Path],
    question: Question,
    *,
    partial: Path,
    dtype: ComputeDtype | None = None,
    trust_checkpoint: bool = False,
    report: Callable[[str], None] = print,
) -> list[Analysis]:
    """Measures the attention of models to texts with a fact in them.

    Args:
      models: runs, or directories of Hugging Face files.
      question: what is measured.
      partial: directory for what is found of single texts, with which an interrupted analysis goes on; `kept.forget`
        it when everything is written.
      dtype: type of weights, activations and cache; None takes that of each model.
      trust_checkpoint: do not compare the files of checkpoints with their integrity files first.
      report: is told of progress.

    Raises:
      UserError: if a model cannot be read or has no tokenizer, or a length is too short for fact and
        question; before anything is computed.
    """
    sources = [open_source(path, verify=False) for path in models]
    haystacks = []
    for source in sources:
        if source.tokenizer is None:
            raise UserError(
                f"{source.path}: there is no tokenizer with this model, so it cannot read text; "
                "put its tokenizer.json there"
            )
        haystacks.append(Haystack(question.haystack, tokenizer.load(source.tokenizer)))

    def plan(lengths: tuple[int, ...]) -> list[dict[tuple[int, float], list[Probe]]]:
        return [probes(each, lengths, question.depths, question.samples, question.seed) for each in haystacks]

    otherwise = tuple(multiple * sources[0].context for multiple in MULTIPLES)
    _, asked = planned(question.lengths, otherwise, plan, report)
    analyses = []
    for source, name, texts in zip(sources, _names(models), asked, strict=True):
        model = load(source.path, dtype, trust_checkpoint=trust_checkpoint)
        kept, findings = Kept(partial, fingerprint(model)), []
        for (length, depth), batch in texts.items():
            began = time.perf_counter()
            measured = measure(model.config, model.params, batch, depth, kept)
            findings.append(summarize(measured, per_head=question.per_head))
            seconds = time.perf_counter() - began
            report(f"{name}: {len(batch)} texts of {length:,} tokens, fact at {depth:.0%}: {seconds:.1f} s")
        pattern = tuple(str(kind) for kind in model.config.layer_kinds)
        analyses.append(Analysis(name, model.step, pattern, source.context, tuple(findings)))
    return analyses


def _names(models: Sequence[Path]) -> list[str]:
    """What to call models: the names of their directories where these differ."""
    names = [path.resolve().name for path in models]
    return names if len(set(names)) == len(names) else [str(path) for path in models]


__all__ = ["Analysis", "Question", "analyze"]
