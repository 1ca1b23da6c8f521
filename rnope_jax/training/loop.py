"""The training loop: keeps the devices busy while it reports, evaluates and saves."""

import contextlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import jax
import numpy as np
from jax.sharding import Mesh

from rnope_jax import __version__, flops
from rnope_jax.checkpoint import Checkpoints
from rnope_jax.config import Config
from rnope_jax.data import Batch, Corpus, DataError, ReadAhead, held_out_batches, training_batches
from rnope_jax.data.packing import empty_batch
from rnope_jax.errors import UserError
from rnope_jax.files import write_text
from rnope_jax.model import Params
from rnope_jax.run import Run
from rnope_jax.training import host_memory
from rnope_jax.training.diagnosis import bad_gradients, first_bad
from rnope_jax.training.evaluation import HeldOutLoss, held_out_loss
from rnope_jax.training.metrics import Clock, Reporter, memory_gib
from rnope_jax.training.processes import is_first
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
    run: Run
    clock: Clock = field(default_factory=Clock)
    interval: Interval = field(default_factory=Interval)
    doubtful: bool = False
    """Whether the last step was skipped."""
    evaluation_steps: dict[int, EvaluationStep] = field(default_factory=dict)
    """By stage: the closing evaluation runs what the stage has compiled."""

    def run_stage(self, index: int, state: TrainState) -> TrainState:
        """Trains to the end of a stage, or until a stop is requested; then the state is saved."""
        step, end = int(state.step), self.config.first_step(index + 1)
        if step >= end or self.stop:
            return state
        if step == 0:
            self._evaluate(index, state.params, step)
        with contextlib.closing(self._batches(index, step)) as batches:
            return self._train(index, state, batches)

    def _train(self, index: int, state: TrainState, batches: ReadAhead) -> TrainState:
        config, stage = self.config, self.config.stages[index]
        step, end = int(state.step), config.first_step(index + 1)
        batch = next(batches, None)
        train_step = None if batch is None else self._compile(index, state, batch)
        if train_step is None:
            return state  # as it was found: there is a checkpoint of it, or it is the beginning

        pending: Pending | None = None
        profiled: int | None = None
        self.clock.resume()
        try:
            while batch is not None and not self.stop:
                if step == config.logging.profile_step:
                    jax.profiler.start_trace(str(self.run.profile))
                    profiled = min(step + _PROFILED, end)
                state, metrics = train_step(state, to_devices(batch, self.mesh, stage.batch_size))
                work = flops.training_flops(config.model, self._lengths(index, step, batch))
                step += 1
                running = Pending(step, metrics, stage.batch_size * stage.sequence_length, work)
                # The devices are busy with this step while the metrics of the one before are read and
                # the next batch is fetched.
                if pending is not None:
                    self._settle(index, pending, state)
                pending = running
                if self.doubtful:
                    # The state that comes out of it is the one to be looked at if it is skipped as well.
                    self._settle(index, pending, state)
                    pending = None
                if step < end:
                    with self.clock.wait():
                        batch = next(batches, None)

                if step == profiled:
                    jax.block_until_ready(state)
                    jax.profiler.stop_trace()

                evaluate = step % config.evaluation.every == 0 and step < config.total_steps
                save = step % config.checkpoint.every == 0 or step == end
                if evaluate or save:
                    if pending is not None:
                        self._settle(index, pending, state)
                    pending = None
                    if evaluate:
                        self._evaluate(index, state.params, step)
                    if save:
                        self.save(state, step)
                    self.clock.resume()
                if step == end:
                    return state
        except DataError as error:
            if jax.process_count() > 1:  # a checkpoint needs them all, and the others know of nothing
                raise
            if pending is not None:
                self._settle(index, pending, state)
            self.save(state, step)
            self.checkpoints.wait()
            raise DataError(f"{error}.\nStep {step} was saved; the same command goes on from there") from error
        if pending is not None:
            self._settle(index, pending, state)
        self.save(state, step)
        return state

    def _batches(self, index: int, step: int) -> ReadAhead:
        stage = self.config.stages[index]
        rows = local_rows(self.mesh, stage.batch_size, stage.sequence_length)
        done = step - self.config.first_step(index)
        return training_batches(self.corpus.train[index], done, rows, lambda: self.stop.alone)

    def _lengths(self, index: int, step: int, batch: Batch) -> np.ndarray:
        """Lengths of the documents in all rows of the batch of a step, also of rows that other processes read."""
        if len(batch.tokens) == self.config.stages[index].batch_size:
            return flops.document_lengths(batch.segment_ids)
        return self.corpus.train[index].lengths(step - self.config.first_step(index))

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

    def _compile(self, index: int, state: TrainState, batch: Batch) -> Callable | None:
        """The step of a stage; None if a stop was requested meanwhile."""
        began = time.perf_counter()
        step = make_train_step(self.config, index, self.mesh)
        lowered = step.lower(state, to_devices(batch, self.mesh, self.config.stages[index].batch_size))
        compiled = self.stop.unless(lowered.compile)
        host_memory.release()
        if compiled is None:
            return None
        if self.config.logging.programs and is_first():
            self.run.programs.mkdir(exist_ok=True)
            write_text(self.run.programs / f"{self.config.stages[index].name}.txt", compiled.as_text())
        self.reporter.say(f"stage {self.config.stages[index].name}: compiled in {time.perf_counter() - began:.1f} s")
        return compiled

    def _settle(self, index: int, pending: Pending, state: TrainState) -> None:
        """Waits for a step, checks that it was sound, and reports if a report is due."""
        skipped = int(pending.metrics["skipped"])
        self.doubtful = skipped > 0
        self.checkpoints.poll()
        seconds, waiting = self.clock.lap()
        total = self.interval
        total.seconds += seconds
        total.tokens += pending.tokens
        total.flops += pending.flops
        total.waiting += waiting
        if skipped:
            self._skipped(index, pending, skipped, state.params)
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

    def _skipped(self, index: int, pending: Pending, count: int, params: Params) -> None:
        """Tells of a step that was not applied; ends the run when too many were skipped in a row."""
        metrics = pending.metrics
        bad = bad_gradients(self.config.model, metrics["gradient_finite"])
        loss, norm = float(metrics["loss"]), float(metrics["gradient_norm"])
        sound = math.isfinite(loss) and math.isfinite(norm)
        cause = "a spike of the gradient norm" if sound else f"loss or gradient not finite ({_some(bad)})"
        text = f"step {pending.step} skipped ({count} in a row): {cause}; loss {loss:.4g}, gradient norm {norm:.4g}"
        if count < self.config.optimizer.max_skipped:
            self.reporter.say(text)
            return
        self.checkpoints.wait()
        mixture, local = self.corpus.train[index], pending.step - 1 - self.config.first_step(index)
        if not sound:
            text += f".\n{first_bad(self.config, index, self.mesh, params, mixture.batch(local), bad)}"
        raise TrainingError(
            f"{text}.\nIts batch holds {_some(mixture.documents(local))}.\nStopped because optimizer.max_skipped = "
            f"{count}; the checkpoints {self.checkpoints.steps()} are sound. Look at the documents, or lower the "
            "learning rate"
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
        rows = None if final else self.config.evaluation.rows
        size, length = stage.batch_size // stage.accumulation, stage.sequence_length
        if not self._can_evaluate(index, params, size, length):
            return None
        batches = held_out_batches(store, length, size, rows, local_rows(self.mesh, size, length))
        placed = (to_devices(batch, self.mesh, size) for batch in batches)

        def measure() -> HeldOutLoss | None:
            with jax.set_mesh(self.mesh):  # which a thread does not inherit
                return held_out_loss(self.evaluation_steps[index], params, placed, store, lambda: bool(self.stop))

        result = self.stop.unless(measure, together=True)
        if result is not None:
            values = {"held_out_loss": result.nats_per_token, "held_out_bits_per_byte": result.bits_per_byte}
            self.reporter.write(step, **values, final=final)
            which = "all" if final else "a part"
            self.reporter.say(
                f"step {step}: held-out loss {result.nats_per_token:.4f} nats/token, "
                f"{result.bits_per_byte:.4f} bits/byte on {which} of the held-out text ({result.tokens:,} tokens)"
            )
        return result

    def _can_evaluate(self, index: int, params: Params, size: int, length: int) -> bool:
        """Makes the evaluation of a stage; False if a stop was requested meanwhile."""
        if index in self.evaluation_steps:
            return True
        step = make_evaluation_step(self.config, index, self.mesh)
        if jax.process_count() > 1:  # they compile each for itself, but run it together
            rows = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), empty_batch(size, length))
            compiled = self.stop.unless(step.lower(params, rows).compile)
            if compiled is None:
                return False
            step = compiled
        self.evaluation_steps[index] = step
        return True


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
