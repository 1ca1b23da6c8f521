"""How it is trained: stages, optimizer, loss, devices."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from rnope_jax.config.data import Packing, SourceConfig
from rnope_jax.schema import Problem, Schema


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
    packing: Packing = "concat"
    """How documents fill rows: concat cuts their concatenation, best_fit keeps every start of a document, and pads."""
    mixture: tuple[SourceConfig, ...] = ()
    """Several sources with weights, instead of one corpus."""

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
        if self.mixture:
            for name, default in (("corpus", ()), ("packing", "concat")):
                if getattr(self, name) != default:
                    yield name, "belongs to each source where there is a mixture; leave it out here"
        names = [source.name for source in self.mixture]
        if len(set(names)) < len(names):
            yield "mixture", f"names must differ, got {names}"
        for index, source in enumerate(self.mixture):
            if source.sequence_length is not None and self.sequence_length % source.sequence_length:
                yield f"mixture.{index}.sequence_length", f"must divide that of the stage, {self.sequence_length}"

    @property
    def sources(self) -> tuple[SourceConfig, ...]:
        """What the stage is trained on: its mixture, or the one corpus."""
        return self.mixture or (SourceConfig(name=self.name, corpus=self.corpus, packing=self.packing),)

    @property
    def tokens(self) -> int:
        """Token positions in the whole stage."""
        return self.steps * self.batch_size * self.sequence_length


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
class InitConfig(Schema):
    """What training begins from."""

    source: str | None = None
    """A run, or a directory of Hugging Face files, whose parameters are taken; None draws them at random."""
    optimizer: bool = False
    """Whether the optimizer's state is taken as well; the source must be a run with the same optimizer."""
    window_convention: Literal["transformers", "vllm"] = "transformers"
    """How sliding_window of Hugging Face files is meant: that many keys (transformers), or one more (vllm)."""

    def path(self) -> str:
        return "init"

    def problems(self) -> Iterator[Problem]:
        if self.optimizer and self.source is None:
            yield "optimizer", "there is no init.source to take it from"


@dataclass(frozen=True, kw_only=True)
class MeshConfig(Schema):
    """Devices along each mesh axis; -1, on one axis at most, takes what the others leave."""

    data: int = 1
    """Replicas that split the batch."""
    fsdp: int = -1
    """Devices that split the batch and shard parameters and optimizer."""
    context: int = 1
    """Devices that split each sequence, and parameters and optimizer together with fsdp."""
    tensor: int = 1
    """Devices that split heads, feed-forward width and vocabulary."""

    def path(self) -> str:
        return "mesh"

    def problems(self) -> Iterator[Problem]:
        sizes = (self.data, self.fsdp, self.context, self.tensor)
        for name in ("data", "fsdp", "context", "tensor"):
            size = getattr(self, name)
            if size < 1 and size != -1:
                yield name, "must be at least 1, or -1 for all remaining devices"
            if size == -1 and sizes.count(-1) > 1:
                yield name, "only one axis may be -1"
