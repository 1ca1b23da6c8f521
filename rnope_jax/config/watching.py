"""How a run is watched and kept: evaluation, checkpoints, reports."""

from collections.abc import Iterator
from dataclasses import dataclass

from rnope_jax.schema import Problem, Schema


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig(Schema):
    """Loss on the held-out text, and samples."""

    every: int = 500
    """Steps between evaluations; the end of a run always evaluates all of the held-out text."""
    rows: int = 64
    """Rows of held-out text per intermediate evaluation."""
    prompts: tuple[str, ...] = ()
    """Texts that are continued at the end of the run."""
    sample_tokens: int = 64
    """Length of these continuations."""

    def path(self) -> str:
        return "evaluation"

    def problems(self) -> Iterator[Problem]:
        for name in ("every", "rows", "sample_tokens"):
            if getattr(self, name) < 1:
                yield name, "must be at least 1"


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig(Schema):
    """When state is saved and what is kept."""

    every: int = 1000
    """Steps between checkpoints; the end of each stage is always saved."""
    keep: int = 3
    """Newest checkpoints that are kept."""
    keep_every: int | None = None
    """Steps whose multiples are kept for ever; None keeps no others."""
    accept_changed_data: bool = False
    """Whether a run goes on where its data are not those of its checkpoint; otherwise it says what has changed."""

    def path(self) -> str:
        return "checkpoint"

    def problems(self) -> Iterator[Problem]:
        for name in ("every", "keep"):
            if getattr(self, name) < 1:
                yield name, "must be at least 1"
        if self.keep_every is not None and self.keep_every < 1:
            yield "keep_every", "must be at least 1, or None"


@dataclass(frozen=True, kw_only=True)
class LoggingConfig(Schema):
    """What a run reports."""

    every: int = 10
    """Steps between lines of metrics.jsonl and of the terminal."""
    tensorboard: bool = True
    """Also write TensorBoard events."""
    wandb: str | None = None
    """Weights & Biases project that gets the same numbers; needs the package wandb. None sends nothing."""
    profile_step: int | None = None
    """Step after which three steps are profiled into RUN/profile; None profiles nothing."""
    programs: bool = False
    """Write the compiled step of each stage into RUN/programs, as text (HLO)."""
    compile_cache: str | None = None
    """Directory that keeps compiled programs, so that the next start need not compile; None keeps none."""

    def path(self) -> str:
        return "logging"

    def problems(self) -> Iterator[Problem]:
        if self.every < 1:
            yield "every", "must be at least 1"
        if self.profile_step is not None and self.profile_step < 0:
            yield "profile_step", "must be 0 or more, or None"
