"""Training: state, step, optimizer, loss and schedule; the loop; the run directory and its reports."""

from rnope_jax.run import Run, open_run
from rnope_jax.training.loop import Trainer, TrainingError
from rnope_jax.training.metrics import Reporter
from rnope_jax.training.signals import stop_on_signals
from rnope_jax.training.start import check_source, restore_or_init

__all__ = [
    "Reporter",
    "Run",
    "Trainer",
    "TrainingError",
    "check_source",
    "open_run",
    "restore_or_init",
    "stop_on_signals",
]
