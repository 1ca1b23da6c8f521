"""Versions, optional packages, devices, memory and variables."""

import glob
import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from typing import Any

from rnope_jax import __version__, xla_flags
from rnope_jax.doctor.finding import Finding

#: The packages that decide what a run computes.
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")

#: Where devices show on a machine, whatever Python packages there are: patterns, extra, what they are.
_HARDWARE = (
    (("/dev/nvidia[0-9]*",), "gpu", "an NVIDIA GPU", ("gpu", "cuda")),
    (("/dev/accel[0-9]*", "/dev/vfio/[0-9]*"), "tpu", "a TPU", ("tpu",)),
)

#: Variables that change what jax, its runtimes and several processes do.
_PREFIXES = ("JAX_", "XLA_", "LIBTPU_", "CUDA_VISIBLE", "NCCL_", "TPU_", "MEGASCALE_")

_GIB = 2**30


@dataclass(frozen=True)
class Extra:
    """An optional part of the installation."""

    name: str
    """As in pyproject.toml."""
    modules: tuple[str, ...]
    """What it brings; all must be there."""
    enables: str


EXTRAS = (
    Extra("gpu", ("jax_cuda13_plugin",), "training on NVIDIA GPUs"),
    Extra("tpu", ("libtpu",), "training on TPUs, and `rnope plan` for TPUs on any machine"),
    Extra("interop", ("torch", "transformers", "gguf"), "exports that are verified, and `rnope export --gguf`"),
    Extra("eval", ("lm_eval",), "`rnope evaluate --lm-eval`"),
    Extra("parquet", ("pyarrow",), "Parquet files as data"),
    Extra("wandb", ("wandb",), "`--logging.wandb`"),
)


def versions() -> Iterator[Finding]:
    """Python and the packages that decide what a run computes."""
    yield Finding("versions", "rnope_jax", __version__)
    yield Finding("versions", "python", platform.python_version())
    for name in _PACKAGES:
        try:
            yield Finding("versions", name, metadata.version(name))
        except metadata.PackageNotFoundError:
            yield Finding("versions", name, "not installed", "stop", f"pip install {name}")


def extras() -> Iterator[Finding]:
    """Optional packages, and what each is for."""
    for extra in EXTRAS:
        missing = [name for name in extra.modules if util.find_spec(name) is None]
        if missing:
            value = f"not installed ({', '.join(missing)}): no {extra.enables}"
            yield Finding("extras", extra.name, value, "note", _install(extra.name))
        else:
            yield Finding("extras", extra.name, f"installed: {extra.enables}")


def _install(extra: str) -> str:
    return f"pip install 'rnope-jax[{extra}]'"


def devices() -> tuple[list[Any], list[Finding]]:
    """What jax finds to compute on, none if it fails, and what there is to say about it."""
    import jax

    try:
        found = jax.devices()
    except RuntimeError as error:
        said = str(error).splitlines()[0]
        remedy = "unset JAX_PLATFORMS, or mend the driver that the message names"
        return [], [Finding("devices", "jax", said, "stop", remedy)]
    first = found[0]
    findings = [Finding("devices", first.platform, f"{len(found)} x {first.device_kind}")]
    for patterns, extra, what, platforms in _HARDWARE:
        seen = sorted(path for pattern in patterns for path in glob.glob(pattern))
        if seen and first.platform not in platforms:
            value = f"{seen[0]} looks like {what}, which jax does not use"
            findings.append(Finding("devices", extra, value, "note", _install(extra)))
    return found, findings


def memory() -> Iterator[Finding]:
    """Of this machine and of its accelerators."""
    total, available = host_memory()
    yield Finding("memory", "this machine", f"{available / _GIB:.1f} GiB available of {total / _GIB:.1f} GiB")
    limit = accelerator_memory()
    if limit is not None:
        yield Finding("memory", "each accelerator", f"{limit / _GIB:.1f} GiB for programs")


def host_memory() -> tuple[int, int]:
    """Bytes that this machine, or the container around this process, has and that are not in use."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    available = total
    lines = _read(Path("/proc/meminfo")).splitlines()
    for line in lines:
        if line.startswith("MemAvailable:"):
            available = 1024 * int(line.split()[1])
    limit = _read(Path("/sys/fs/cgroup/memory.max")).strip()
    if limit.isdigit():
        used = _read(Path("/sys/fs/cgroup/memory.current")).strip()
        total = min(total, int(limit))
        available = min(available, int(limit) - int(used) if used.isdigit() else int(limit))
    return total, available


def accelerator_memory() -> int | None:
    """Bytes that programs may use on each device of this process; None where devices share the machine's memory."""
    import jax

    stats = [device.memory_stats() for device in jax.local_devices()]
    limits = [entry["bytes_limit"] for entry in stats if entry and "bytes_limit" in entry]
    return min(limits) if limits else None


def environment(given: Mapping[str, str]) -> Iterator[Finding]:
    """Variables that a run would see, and who has set them."""
    made = dict(given)
    xla_flags.set_environment(made)
    for name in sorted(made):
        if not name.startswith(_PREFIXES):
            continue
        who = "yours" if made[name] == given.get(name) else "set by train.py"
        yield Finding("environment", name, f"{made[name]} ({who})")
    if given.get("JAX_DISABLE_JIT", "").lower() in ("1", "true"):
        yield Finding(
            "environment",
            "JAX_DISABLE_JIT",
            "nothing is compiled: training is slow beyond use",
            "stop",
            "unset JAX_DISABLE_JIT",
        )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return ""
