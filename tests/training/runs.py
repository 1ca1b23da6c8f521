"""Whole runs in this process, on one device: the story of train.py without its last words."""

import contextlib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import jax
from jax.sharding import Mesh

from rnope_jax import data
from rnope_jax.checkpoint import Checkpoints
from rnope_jax.config import (
    CheckpointConfig,
    Config,
    DataConfig,
    EvaluationConfig,
    LoggingConfig,
    ScheduleConfig,
    StageConfig,
)
from rnope_jax.run import Run, open_run
from rnope_jax.training import loop, start
from rnope_jax.training.loop import Trainer
from rnope_jax.training.metrics import Reporter
from rnope_jax.training.signals import StopRequest
from rnope_jax.training.start import restore_or_init
from rnope_jax.training.state import TrainState, init_state, state_shardings
from rnope_jax.training.step import make_evaluation_step
from tests.helpers import tiny_model
from tests.training.steps import mesh_of


def run_config(corpus: Path, run_dir: Path, **changes: Any) -> Config:
    """Two short stages: other lengths, batches and RoPE bases. Checkpoints at 3, 6 (the end of a stage), 9 and 10."""
    first = StageConfig(
        name="first", steps=6, sequence_length=16, batch_size=4, schedule=ScheduleConfig(peak=1e-2, warmup_steps=2)
    )
    second = replace(first, name="second", steps=4, sequence_length=24, batch_size=2, rope_theta=10_000.0)
    defaults = {
        "name": "tiny",
        "model": tiny_model(num_layers=2, vocab_size=300),
        "stages": (first, second),
        "data": DataConfig(corpus=(str(corpus),), held_out_fraction=0.2),
        "evaluation": EvaluationConfig(every=5, rows=6),
        "checkpoint": CheckpointConfig(every=3, keep=2),
        "logging": LoggingConfig(every=1, tensorboard=False),
        "run_dir": str(run_dir),
    }
    return Config(**{**defaults, **changes})


class StoppingReporter(Reporter):
    """Asks the run to stop when a step is reported."""

    stop: StopRequest
    stop_at: int | None = None

    def write(self, step: int, **values: Any) -> None:
        super().write(step, **values)
        if step == self.stop_at:
            self.stop.signal = object()


@dataclass
class Result:
    """What a run left."""

    state: TrainState
    run: Run
    trainer: Trainer
    said: list[str]


def _essence(config: Config) -> Config:
    """What of a configuration a compiled function depends on."""
    return Config(
        name="x",
        model=config.model,
        stages=config.stages,
        optimizer=config.optimizer,
        loss=config.loss,
        seed=config.seed,
    )


@cache
def _initial(config: Config, mesh: Mesh) -> TrainState:
    return jax.device_get(init_state(config, mesh))


_evaluation = cache(make_evaluation_step)
_compiled: dict[Any, Any] = {}


class SharingTrainer(Trainer):
    """Compiles what it needs unless an earlier run has."""

    def _compile(self, index: int, state: TrainState, batch: data.Batch) -> Any:
        key = (_essence(self.config), index, self.mesh)
        if key not in _compiled:
            _compiled[key] = super()._compile(index, state, batch)
        return _compiled[key]


@contextlib.contextmanager
def shared_compilation() -> Iterator[None]:
    """Runs with equal models, stages and seeds share initial state and compiled functions."""
    with (
        mock.patch.object(
            start,
            "init_state",
            lambda config, mesh: jax.device_put(_initial(_essence(config), mesh), state_shardings(config, mesh)),
        ),
        mock.patch.object(
            loop, "make_evaluation_step", lambda config, index, mesh: _evaluation(_essence(config), index, mesh)
        ),
    ):
        yield


def train(config: Config, stop_at: int | None = None, devices: int = 1, stop: StopRequest | None = None) -> Result:
    """Trains to the end, or until the metrics of step `stop_at` were written, or until `stop` is true."""
    said: list[str] = []
    mesh = mesh_of(fsdp=devices)
    with open_run(config) as run, jax.set_mesh(mesh), shared_compilation(), contextlib.ExitStack() as stack:
        corpus = data.prepare(config, run.path, said.append)
        run.record(config)
        checkpoints = Checkpoints(run.checkpoints, config.checkpoint)
        stack.callback(checkpoints.close)
        state = restore_or_init(config, mesh, checkpoints, corpus.fingerprint, said.append)
        reporter = StoppingReporter(run, config.logging, int(state.step), config.total_steps)
        stack.callback(reporter.close)
        reporter.say = said.append
        reporter.stop, reporter.stop_at = StopRequest() if stop is None else stop, stop_at
        trainer = SharingTrainer(config, corpus, mesh, checkpoints, reporter, reporter.stop, run)
        for index in range(len(config.stages)):
            state = trainer.run_stage(index, state)
        if int(state.step) == config.total_steps:
            trainer.evaluate(state)
    return Result(jax.device_get(state), run, trainer, said)


#: Measurements of time and memory, which no two runs share.
_TIMES = ("tokens_per_second", "tflops", "memory", "wait", "goodput")


def metrics(run_dir: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without measurements of time and memory."""
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not any(part in k for part in _TIMES)} for line in lines]


def tree_hash(directory: Path) -> str:
    """Of the names and contents of everything in a directory."""
    digest = hashlib.sha256()
    for path in sorted(directory.rglob("*")):
        digest.update(str(path.relative_to(directory)).encode())
        digest.update(path.read_bytes() if path.is_file() else b"/")
    return digest.hexdigest()
