"""A whole run."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from rnope_jax.config.data import DataConfig
from rnope_jax.config.model import ModelConfig
from rnope_jax.config.training import InitConfig, LossConfig, MeshConfig, OptimizerConfig, StageConfig
from rnope_jax.config.watching import CheckpointConfig, EvaluationConfig, LoggingConfig
from rnope_jax.errors import ConfigError
from rnope_jax.schema import Problem, Schema


@dataclass(frozen=True, kw_only=True)
class Config(Schema):
    """A whole run."""

    name: str
    """Names the run; the default run directory is runs/NAME."""
    model: ModelConfig
    """The architecture."""
    stages: tuple[StageConfig, ...]
    """What is trained, in order."""
    data: DataConfig = field(default_factory=DataConfig)
    """Text and tokenizer."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """Updates."""
    loss: LossConfig = field(default_factory=LossConfig)
    """Objective."""
    init: InitConfig = field(default_factory=InitConfig)
    """Where the parameters come from."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """Held-out loss and samples."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """Saving."""
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    """Reporting."""
    mesh: MeshConfig = field(default_factory=MeshConfig)
    """Devices."""
    seed: int = 0
    """Seed of initial weights and of the order of the data."""
    run_dir: str | None = None
    """Where the run lives; None takes runs/NAME."""

    def path(self) -> str:
        return "config"

    def problems(self) -> Iterator[Problem]:
        if not self.name or "/" in self.name:
            yield "name", "must be a plain name, without a slash and not empty"
        if not self.stages:
            yield "stages", "needs at least one stage"
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            yield "stages", f"names must differ, got {names}"
        if not 0 <= self.seed < 2**31:
            yield "seed", "must be between 0 and 2^31 - 1"

    @property
    def directory(self) -> Path:
        """The run directory."""
        return Path(self.run_dir) if self.run_dir else Path("runs") / self.name

    def model_after(self, step: int) -> ModelConfig:
        """The model as `step` steps (at least one) leave it: that of the stage that took the last of them."""
        return self.stage_model(self.stage_at(step - 1))

    @property
    def total_steps(self) -> int:
        """Optimizer steps of all stages."""
        return sum(stage.steps for stage in self.stages)

    @property
    def max_sequence_length(self) -> int:
        """The longest row of any stage: the context that the model was trained for."""
        return max(stage.sequence_length for stage in self.stages)

    @property
    def corpora(self) -> tuple[tuple[str, ...], ...]:
        """Every corpus that is read; data.corpus, of which a part is held out, is the first."""
        named = [source.corpus for stage in self.stages for source in stage.sources if source.corpus]
        return tuple(dict.fromkeys([self.data.corpus, *named]))

    def first_step(self, index: int) -> int:
        """Steps taken before stage `index` begins."""
        return sum(stage.steps for stage in self.stages[:index])

    def stage_at(self, step: int) -> int:
        """The stage that takes step `step`, counted from 0.

        Raises:
          ConfigError: if the stages end before it.
        """
        for index in range(len(self.stages)):
            if step < self.first_step(index + 1):
                return index
        raise ConfigError(
            f"config.stages: they have {self.total_steps} steps together, and step {step + 1} was taken; "
            "give the stages that the run was trained with"
        )

    def stage_model(self, index: int) -> ModelConfig:
        """The model in stage `index`: the RoPE base is the last one that a stage up to it has set."""
        model = self.model
        for stage in self.stages[: index + 1]:
            model = model.with_theta(stage.rope_theta)
        return model

    def to_json(self) -> str:
        """The configuration as JSON text; `from_json` reads back an equal value."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Reads what `to_json` wrote.

        Raises:
          ConfigError: if the text is not JSON or not a valid configuration.
        """
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise ConfigError(f"configuration is not JSON: {error}") from error
        return cls.from_dict(data, "config")
