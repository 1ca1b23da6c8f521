"""The configuration of a run: frozen values, checked on construction, readable as JSON.

`Config` holds everything that decides what a run computes. Files in `configs/` have functions that
return one; `rnope_jax.cli.config_file` loads them and applies overrides from the command line.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Self

from rnope_jax.errors import ConfigError
from rnope_jax.layers import Pattern, kinds, with_theta
from rnope_jax.schema import Problem, Schema

#: Name in `DataConfig.corpus` that stands for the sources of the running Python's standard library.
STDLIB = "stdlib"


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Schema):
    """Shape and arithmetic of a decoder with Cohere's parallel blocks."""

    pattern: Pattern
    """Layer kinds of one period, cycled over the layers."""
    num_layers: int
    """Number of layers; need not be a multiple of the pattern."""
    vocab_size: int
    """Rows of the embedding, which is also the output projection."""
    d_model: int
    """Width of the residual stream."""
    d_ff: int
    """Width of the SwiGLU feed-forward layer."""
    num_heads: int
    """Query heads."""
    num_kv_heads: int
    """Key and value heads; each serves num_heads / num_kv_heads query heads."""
    head_dim: int
    """Width of a head."""
    norm_eps: float = 1e-5
    """Added to the variance in every LayerNorm."""
    logit_scale: float = 1.0
    """Factor on the output logits (Command R7B: 0.25)."""
    init_std: float = 0.02
    """Standard deviation of initial weights; output projections are divided by sqrt(2 x layers)."""
    mup_base_width: int | None = None
    """muP: the d_model at which learning rate and initialisation were tuned. None: standard parametrisation."""
    compute_dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Type of activations and of weights in matrix products. Master weights, norms, softmax and loss are float32."""
    attention: Literal["auto", "blockwise", "reference"] = "auto"
    """Attention backend; auto picks by platform and layer kind."""
    remat: Literal["full", "none"] = "full"
    """What the backward pass recomputes: whole layers (full), or nothing (none)."""

    def path(self) -> str:
        return "model"

    def problems(self) -> Iterator[Problem]:
        if not self.pattern:
            yield "pattern", "needs at least one layer kind, for example rnope_swa(window=4096)"
        for name in ("num_layers", "vocab_size", "d_model", "d_ff", "num_heads", "num_kv_heads", "head_dim"):
            if getattr(self, name) < 1:
                yield name, "must be at least 1"
        for name in ("norm_eps", "logit_scale", "init_std"):
            if getattr(self, name) <= 0:
                yield name, "must be positive"
        if self.num_heads % self.num_kv_heads:
            divisors = [k for k in range(1, self.num_heads + 1) if self.num_heads % k == 0]
            yield "num_kv_heads", f"must divide num_heads = {self.num_heads}: one of {divisors}"
        if self.head_dim % 2 and any(kind.rope_theta is not None for kind in self.pattern):
            yield "head_dim", "must be even, because RoPE rotates pairs of channels"
        if self.mup_base_width is not None and self.mup_base_width < 1:
            yield "mup_base_width", "must be at least 1, or None for the standard parametrisation"

    @property
    def layer_kinds(self) -> Pattern:
        """The kind of every layer, in order."""
        return kinds(self.pattern, self.num_layers)

    @property
    def num_periods(self) -> int:
        """Whole periods of the pattern, which are scanned; the remaining layers follow unrolled."""
        return self.num_layers // len(self.pattern)

    @property
    def remainder(self) -> Pattern:
        """Kinds of the layers after the last whole period."""
        return self.pattern[: self.num_layers % len(self.pattern)]

    def with_theta(self, theta: float | None) -> "ModelConfig":
        """This model with another RoPE base in its RoPE layers; None leaves it."""
        return replace(self, pattern=with_theta(self.pattern, theta))


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig(Schema):
    """Learning rate over the steps of one stage."""

    peak: float
    """Learning rate after warm-up."""
    kind: Literal["cosine", "wsd", "constant"] = "cosine"
    """cosine: half a wave down to the final rate. wsd: stable at the peak, then a linear decay. constant: the peak."""
    warmup_steps: int = 0
    """Steps of linear warm-up from zero."""
    final_fraction: float = 0.1
    """Final rate as a fraction of the peak."""
    decay_fraction: float = 0.2
    """wsd only: the share of the stage that decays."""

    def path(self) -> str:
        return "stages[].schedule"

    def problems(self) -> Iterator[Problem]:
        if self.peak <= 0:
            yield "peak", "must be positive"
        if self.warmup_steps < 0:
            yield "warmup_steps", "must be 0 or more"
        for name in ("final_fraction", "decay_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                yield name, "must be between 0 and 1"


@dataclass(frozen=True, kw_only=True)
class StageConfig(Schema):
    """A part of a run with its own length, batch, schedule, RoPE base and corpus."""

    name: str
    """Shown in metrics."""
    steps: int
    """Optimizer steps."""
    sequence_length: int
    """Tokens per row."""
    batch_size: int
    """Rows per step, over all devices and micro-batches."""
    schedule: ScheduleConfig
    """Learning rate over these steps."""
    accumulation: int = 1
    """Micro-batches per step; their tokens, not their means, are weighted equally."""
    rope_theta: float | None = None
    """RoPE base of the RoPE layers from this stage on; None keeps the one before."""
    corpus: tuple[str, ...] = ()
    """Files and directories of this stage; empty takes data.corpus."""

    def path(self) -> str:
        return f"stages[{self.name!r}]"

    def problems(self) -> Iterator[Problem]:
        for name in ("steps", "sequence_length", "batch_size", "accumulation"):
            if getattr(self, name) < 1:
                yield name, "must be at least 1"
        if self.batch_size % self.accumulation:
            yield "batch_size", f"must be divisible by accumulation = {self.accumulation}"
        if self.schedule.warmup_steps > self.steps:
            yield "schedule.warmup_steps", f"must not exceed the stage's steps = {self.steps}"
        if self.rope_theta is not None and self.rope_theta <= 0:
            yield "rope_theta", "must be positive, or None to keep the one before"

    @property
    def tokens(self) -> int:
        """Token positions in the whole stage."""
        return self.steps * self.batch_size * self.sequence_length


@dataclass(frozen=True, kw_only=True)
class DataConfig(Schema):
    """Text and how it becomes tokens."""

    corpus: tuple[str, ...] = (STDLIB,)
    """Text files and directories; "stdlib" stands for the sources of the running Python's standard library."""
    suffixes: tuple[str, ...] = (".txt", ".md", ".rst", ".py")
    """Files taken from directories, by the end of their names."""
    tokenizer: str | None = None
    """A tokenizer.json; None trains a byte-level BPE of model.vocab_size on the corpus and keeps it with the run."""
    bos_token: str | None = None
    """Token that starts a document; None takes it from the tokenizer's own files."""
    eos_token: str | None = None
    """Token that ends a document; None takes it from the tokenizer's own files."""
    held_out_fraction: float = 0.05
    """Share of the files (of the text, where there is one file) that is kept for evaluation."""

    def path(self) -> str:
        return "data"

    def problems(self) -> Iterator[Problem]:
        if not self.corpus:
            yield "corpus", f"needs at least one file, directory or {STDLIB!r}"
        if not self.suffixes:
            yield "suffixes", 'needs at least one suffix, for example ".txt"'
        if not 0 < self.held_out_fraction < 1:
            yield "held_out_fraction", "must be between 0 and 1, both excluded"


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig(Schema):
    """How gradients become updates."""

    name: Literal["adamw", "muon", "adafactor"] = "adamw"
    """muon orthogonalises the updates of matrices and gives embedding and norms to Adam."""
    beta1: float = 0.9
    """Decay of the first moment (of Muon's momentum too)."""
    beta2: float = 0.95
    """Decay of the second moment."""
    eps: float = 1e-8
    """Added to the root of the second moment."""
    weight_decay: float = 0.1
    """Decoupled decay of matrices, times the learning rate. Embedding and norms do not decay."""
    clip_norm: float | None = 1.0
    """Largest global gradient norm; None does not clip."""
    skip_spikes: float | None = None
    """Skip a step whose gradient norm exceeds this multiple of its running mean; None never does."""
    max_skipped: int = 10
    """Consecutive skipped steps (not finite, or spikes) after which the run stops with a diagnosis."""

    def path(self) -> str:
        return "optimizer"

    def problems(self) -> Iterator[Problem]:
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                yield name, "must be at least 0 and below 1"
        if self.eps <= 0:
            yield "eps", "must be positive"
        if self.weight_decay < 0:
            yield "weight_decay", "must be 0 or more"
        if self.clip_norm is not None and self.clip_norm <= 0:
            yield "clip_norm", "must be positive, or None not to clip"
        if self.skip_spikes is not None and self.skip_spikes <= 1:
            yield "skip_spikes", "must be above 1, or None never to skip a spike"
        if self.max_skipped < 1:
            yield "max_skipped", "must be at least 1"


@dataclass(frozen=True, kw_only=True)
class LossConfig(Schema):
    """Next-token cross-entropy."""

    z_loss: float = 0.0
    """Weight of the squared log-normaliser, which keeps logits from drifting (PaLM: 1e-4)."""
    chunk: int = 512
    """Positions per row whose logits exist at a time."""

    def path(self) -> str:
        return "loss"

    def problems(self) -> Iterator[Problem]:
        if self.z_loss < 0:
            yield "z_loss", "must be 0 or more"
        if self.chunk < 1:
            yield "chunk", "must be at least 1"


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

    def path(self) -> str:
        return "logging"

    def problems(self) -> Iterator[Problem]:
        if self.every < 1:
            yield "every", "must be at least 1"
        if self.profile_step is not None and self.profile_step < 0:
            yield "profile_step", "must be 0 or more, or None"


@dataclass(frozen=True, kw_only=True)
class MeshConfig(Schema):
    """Devices along each mesh axis; -1, on one axis at most, takes what the others leave."""

    data: int = 1
    """Replicas that split the batch."""
    fsdp: int = -1
    """Devices that split the batch and shard parameters and optimizer."""
    tensor: int = 1
    """Devices that split heads, feed-forward width and vocabulary."""

    def path(self) -> str:
        return "mesh"

    def problems(self) -> Iterator[Problem]:
        sizes = (self.data, self.fsdp, self.tensor)
        for name in ("data", "fsdp", "tensor"):
            size = getattr(self, name)
            if size < 1 and size != -1:
                yield name, "must be at least 1, or -1 for all remaining devices"
            if size == -1 and sizes.count(-1) > 1:
                yield name, "only one axis may be -1"


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
            yield "name", "must be a plain, non-empty name"
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

    @property
    def total_steps(self) -> int:
        """Optimizer steps of all stages."""
        return sum(stage.steps for stage in self.stages)

    @property
    def max_sequence_length(self) -> int:
        """The longest row of any stage: the context that the model was trained for."""
        return max(stage.sequence_length for stage in self.stages)

    def first_step(self, index: int) -> int:
        """Steps taken before stage `index` begins."""
        return sum(stage.steps for stage in self.stages[:index])

    def stage_at(self, step: int) -> int:
        """The stage that takes step `step`, counted from 0."""
        return next(i for i in range(len(self.stages)) if step < self.first_step(i + 1))

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
