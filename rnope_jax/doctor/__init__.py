"""What a run would meet on this machine: devices, kernels, memory, disk, settings, and what is missing."""

from collections.abc import Iterator, Mapping

from rnope_jax.config import Config
from rnope_jax.doctor import disk, machine, run
from rnope_jax.doctor.finding import Finding


def examine(config: Config | None, environment: Mapping[str, str]) -> Iterator[Finding]:
    """Looks at this machine, and at what a run of a configuration needs of it.

    Nothing is left behind: directories are tried out with a small file, which is removed.

    Args:
      config: of the run; None looks at the machine alone.
      environment: variables as they were when the command was given.
    """
    yield from machine.versions()
    yield from machine.extras()
    devices, findings = machine.devices()
    yield from findings
    yield from machine.memory()
    yield from machine.environment(environment)
    yield from disk.directories(config, environment)
    if config is not None and devices:
        yield from run.needs(config)


__all__ = ["Finding", "examine"]
