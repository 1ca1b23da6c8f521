"""What can be wrong with a run, found before anything is compiled or written."""

from collections.abc import Callable
from dataclasses import dataclass

from jax.sharding import Mesh

from rnope_jax import attention, data, model, sharding
from rnope_jax.config import Config
from rnope_jax.training import metrics
from rnope_jax.training.start import check_source


@dataclass(frozen=True)
class Check:
    """One thing that can be wrong."""

    name: str
    promise: str
    """What holds when it passes."""
    run: Callable[[], object]
    """Raises a `UserError` if it does not."""


def checks(config: Config, mesh: Mesh) -> tuple[Check, ...]:
    """All checks, the cheapest first."""
    device = mesh.devices.flat[0]
    return (
        Check("batches", "can be divided over the devices", lambda: sharding.check_batches(config, mesh)),
        Check("parameters", "can be split over the mesh", lambda: model.shardings(config.model, mesh)),
        Check("layers", "can be computed here", lambda: attention.check_layers(config.model, device)),
        Check("reports", "have the packages that they need", lambda: metrics.check(config.logging)),
        Check("data", "corpus and tokenizer are there", lambda: data.check(config)),
        Check("init", "training can begin from its source", lambda: check_source(config)),
    )


def check(config: Config, mesh: Mesh) -> None:
    """Runs all checks.

    Raises:
      UserError: on the first that fails.
    """
    for each in checks(config, mesh):
        each.run()
