"""The training loop: keeps the devices busy while it reports, evaluates and saves."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import jax
from jax.sharding import Mesh

from rnope_jax import __version__, flops
from rnope_jax.checkpoint import Checkpoints
from rnope_jax.config import Config
from rnope_jax.data import Batch, Corpus, held_out_batches, training_batches
from rnope_jax.errors import UserError
from rnope_jax.model import Params
from rnope_jax.training.evaluation import HeldOutLoss, held_out_loss
from rnope_jax.training.metrics import Clock, Reporter, memory_gib
from rnope_jax.training.signals import StopRequest
from rnope_jax.training.state import TrainState
from rnope_jax.training.step import (
    EvaluationStep,
    StepMetrics,
    local_rows,
    make_evaluation_step,
    make_train_step,
    to_devices,
)

#: Steps in a profile; fewer where a stage ends.
_PROFILED = 3

#: How many tensors and documents a diagnosis names.
_NAMED = 5


class TrainingError(UserError):
    """Training cannot go on; the message tells what was found."""


@dataclass(frozen=True)
class Pending:
    """A step that was given to the devices and whose metrics have not been read."""

    step: int
    metrics: StepMetrics
    tokens: int
    flops: int


@dataclass
class Interval:
    """Sums over the steps since the last report."""

    seconds: float = 0.0
    tokens: int = 0
    flops: int = 0
    waiting: float = 0.0


@dataclass
class Trainer:
    """Takes a state through the stages of a run."""

    config: Config
    corpus: Corpus
    mesh: Mesh
    checkpoints: Checkpoints
    reporter: Reporter
    stop: StopRequest
    profile: Path
    clock: Clock = field(default_factory=Clock)
    interval: Interval = field(default_factory=Interval)
    evaluation_steps: dict[int, EvaluationStep] = field(default_factory=dict)
    """By stage: the closing evaluation runs what the stage has compiled."""

    def run_stage(self, index: int, state: TrainState) -> TrainState:
        """Trains to the end of a stage, or until a stop is requested; then the state is saved."""
        config, stage, first = self.config, self.config.stages[index], self.config.first_step(index)
        step, end = int(state.step), first + stage.steps
        if step >= end or self.stop:
            return state
        rows = local_rows(self.mesh, stage.batch_size, stage.sequence_length)
        batches = training_batches(self.corpus.train[index], step - first, rows)
        if step == 0:
            self._evaluate(index, state.params, step)
        batch = next(batches)
        train_step = self._compile(index, state, batch)

        pending: Pending | None = None
        profiled: int | None = None
        self.clock.resume()
        while not self.stop:
            if step == config.logging.profile_step:
                jax.profiler.start_trace(str(self.profile))
                profiled = min(step + _PROFILED, end)
            state, metrics = train_step(state, to_devices(batch, self.mesh, stage.batch_size))
            step += 1
            work = flops.training_flops(config.model, flops.document_lengths(batch.segment_ids))
            # This process's rows stand for those of the others.
            share = stage.batch_size / len(batch.tokens)
            running = Pending(step, metrics, stage.batch_size * stage.sequence_length, round(work * share))
            # The devices are busy with this step while the metrics of the one before are read and
            # the next batch is fetched.
            if pending is not None:
                self._settle(index, pending)
            pending = running
            if step < end:
                with self.clock.wait():
                    batch = next(batches)

            if step == profiled:
                jax.block_until_ready(state)
                jax.profiler.stop_trace()

            evaluate = step % config.evaluation.every == 0 and step < config.total_steps
            save = step % config.checkpoint.every == 0 or step == end
            if evaluate or save:
                self._settle(index, pending)
                pending = None
                if evaluate:
                    self._evaluate(index, state.params, step)
                if save:
                    self.save(state, step)
                self.clock.resume()
            if step == end:
                return state
        if pending is not None:
            self._settle(index, pending)
        self.save(state, step)
        return state

    def save(self, state: TrainState, step: int) -> None:
        """Starts a checkpoint."""
        if step == 0:
            return
        about = {
            "config": self.config.to_json(),
            "data": json.dumps(self.corpus.fingerprint),
            "rnope_jax": __version__,
            "jax": jax.__version__,
            "step": step,
        }
        self.checkpoints.save(step, state.to_dict(), about)

    def evaluate(self, state: TrainState) -> HeldOutLoss | None:
        """Loss on all of the held-out text; None if a stop was requested meanwhile."""
        index = self.config.stage_at(int(state.step) - 1)
        return self._evaluate(index, state.params, int(state.step), final=True)

    def _compile(self, index: int, state: TrainState, batch: Batch) -> Callable:
        began = time.perf_counter()
        step = make_train_step(self.config, index, self.mesh)
        compiled = step.lower(state, to_devices(batch, self.mesh, self.config.stages[index].batch_size)).compile()
        self.reporter.say(f"stage {self.config.stages[index].name}: compiled in {time.perf_counter() - began:.1f} s")
        return compiled

    def _settle(self, index: int, pending: Pending) -> None:
        """Waits for a step, checks that it was sound, and reports if a report is due."""
        skipped = int(pending.metrics["skipped"])
        self.checkpoints.poll()
        seconds, waiting = self.clock.lap()
        total = self.interval
        total.seconds += seconds
        total.tokens += pending.tokens
        total.flops += pending.flops
        total.waiting += waiting
        if skipped:
            self._skipped(index, pending, skipped)
        if pending.step % self.config.logging.every == 0 or pending.step == self.config.total_steps:
            self._report(index, pending)
            self.interval = Interval()

    def _report(self, index: int, pending: Pending) -> None:
        total, metrics = self.interval, pending.metrics
        six_n = flops.six_n(self.config.model, total.tokens)
        values = {
            "stage": self.config.stages[index].name,
            "loss": float(metrics["loss"]),
            "z": float(metrics["z"]),
            "gradient_norm": float(metrics["gradient_norm"]),
            "learning_rate": float(metrics["learning_rate"]),
            "skipped": int(metrics["skipped"]),
            "tokens_per_second": total.tokens / total.seconds,
            "tokens_per_second_per_device": total.tokens / total.seconds / self.mesh.size,
            "model_tflops": total.flops / total.seconds / 1e12,
            "six_n_tflops": six_n / total.seconds / 1e12,
            "memory_gib": memory_gib(),
            "data_wait": total.waiting / total.seconds,
            "goodput": self.clock.goodput,
        }
        self.reporter.write(pending.step, **values)
        self.reporter.progress(pending.step, values)

    def _skipped(self, index: int, pending: Pending, count: int) -> None:
        """Tells of a step that was not applied; ends the run when too many were skipped in a row."""
        metrics = pending.metrics
        bad = [name for name, finite in metrics["gradient_finite"].items() if not bool(finite)]
        loss, norm = float(metrics["loss"]), float(metrics["gradient_norm"])
        cause = f"gradient not finite in {_some(bad)}" if bad else "a spike of the gradient norm"
        text = f"step {pending.step} skipped ({count} in a row): {cause}; loss {loss:.4g}, gradient norm {norm:.4g}"
        if count < self.config.optimizer.max_skipped:
            self.reporter.say(text)
            return
        self.checkpoints.wait()
        local = pending.step - 1 - self.config.first_step(index)
        documents = self.corpus.train[index].documents(local)
        raise TrainingError(
            f"{text}.\nIts batch holds {_some(documents)}.\nStopped because optimizer.max_skipped = {count}; the "
            f"checkpoints {self.checkpoints.steps()} are sound. Look at the documents, or lower the learning rate"
        )

    def _evaluate(
        self,
        index: int,
        params: Params,
        step: int,
        *,
        final: bool = False,
    ) -> HeldOutLoss | None:
        stage, store = self.config.stages[index], self.corpus.held_out
        if index not in self.evaluation_steps:
            self.evaluation_steps[index] = make_evaluation_step(self.config, index, self.mesh)
        rows = None if final else self.config.evaluation.rows
        size, length = stage.batch_size // stage.accumulation, stage.sequence_length
        batches = held_out_batches(store, length, size, rows, local_rows(self.mesh, size, length))
        placed = (to_devices(batch, self.mesh, size) for batch in batches)
        result = held_out_loss(self.evaluation_steps[index], params, placed, store, lambda: bool(self.stop))
        if result is not None:
            values = {"held_out_loss": result.nats_per_token, "held_out_bits_per_byte": result.bits_per_byte}
            self.reporter.write(step, **values, final=final)
            which = "all" if final else "a part"
            self.reporter.say(
                f"step {step}: held-out loss {result.nats_per_token:.4f} nats/token, "
                f"{result.bits_per_byte:.4f} bits/byte on {which} of the held-out text ({result.tokens:,} tokens)"
            )
        return result


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
