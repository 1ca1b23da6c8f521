"""The learning rate over a stage."""

import optax

from rnope_jax.config import StageConfig


def learning_rate(stage: StageConfig) -> optax.Schedule:
    """Learning rate of the stage's n-th step, counted from 1, so that no step has the zero of a warm-up."""
    schedule = stage.schedule
    peak, warmup, rest = schedule.peak, schedule.warmup_steps, stage.steps - schedule.warmup_steps
    match schedule.kind:
        case "cosine":
            after = optax.cosine_decay_schedule(peak, max(rest, 1), alpha=schedule.final_fraction)
        case "wsd":
            decay = round(stage.steps * schedule.decay_fraction)
            stable = max(rest - decay, 0)
            down = optax.linear_schedule(peak, peak * schedule.final_fraction, max(rest - stable, 1))
            after = optax.join_schedules([optax.constant_schedule(peak), down], [stable])
        case "constant":
            after = optax.constant_schedule(peak)
    if warmup == 0:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), after], [warmup])
