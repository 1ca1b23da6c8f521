"""Training: state, step, optimizer, loss and schedule; the loop; the run directory and its reports."""

from rnope_jax.training.loop import Trainer, TrainingError, restore_or_init
from rnope_jax.training.metrics import Reporter
from rnope_jax.training.run import Run, open_run
from rnope_jax.training.signals import stop_on_signals

__all__ = ["Reporter", "Run", "Trainer", "TrainingError", "open_run", "restore_or_init", "stop_on_signals"]
