"""Trains a model: the story of a run, from its configuration to its closing message.

    python train.py configs/quickstart.py
    python train.py configs/paper.py:rnope_swa_study --run-dir runs/mine --stages.0.steps 100

The same command takes up a run where it was interrupted.
"""

import sys

from rnope_jax.cli.errors import end_when_asked, exit_code

if __name__ == "__main__":
    end_when_asked()  # also while the rest is imported, which takes seconds

import jax

from rnope_jax import data, sharding, xla_flags
from rnope_jax.checkpoint import Checkpoints
from rnope_jax.cli import config_file
from rnope_jax.evaluation.closing import close_run, opening
from rnope_jax.training import preflight, processes
from rnope_jax.training.loop import Trainer
from rnope_jax.training.metrics import Reporter
from rnope_jax.training.signals import stop_on_signals
from rnope_jax.training.start import restore_or_init


def main() -> None:
    """The story of a run."""
    # With whom: the other processes of this run, if there are any.
    xla_flags.set_environment()
    processes.join()

    # What to do: a Python file that returns a Config, and overrides from the command line.
    config = config_file.parse("train.py", sys.argv[1:])

    xla_flags.keep_programs(config.logging.compile_cache)

    # Where: all devices in one mesh. Everything that can be wrong is found before anything is written.
    mesh = sharding.make_mesh(config.mesh)
    preflight.check(config, mesh)

    with stop_on_signals() as stop, processes.open_run_together(config) as run, jax.set_mesh(mesh):
        with stop.at_once():
            # With what: text becomes tokens once; they stay with the run.
            corpus = processes.first_then_all(stop, lambda: data.prepare(config, run.path))
            processes.first_alone(stop, lambda: run.record(config))
            opening(config, mesh, corpus)

            # From where: the newest checkpoint, the weights of another model, or the beginning.
            checkpoints = Checkpoints(run.checkpoints, config.checkpoint)
            state = restore_or_init(config, mesh, checkpoints, corpus.fingerprint, attended=stop.or_end)
            if processes.is_first():
                run.record_data(corpus.fingerprint, corpus.rows)
        reporter = Reporter(run, config.logging, int(state.step), config.total_steps)

        # Train, stage by stage: each has its own length, batch, schedule and RoPE base.
        trainer = Trainer(config, corpus, mesh, checkpoints, reporter, stop, run)
        with reporter.watching():
            for index in range(len(config.stages)):
                state = trainer.run_stage(index, state)
        checkpoints.close()

        # What came of it: loss on all of the held-out text, a figure, samples, and what to do next.
        close_run(config, run, corpus, trainer, state)
        reporter.close()


if __name__ == "__main__":
    sys.exit(exit_code(main))
