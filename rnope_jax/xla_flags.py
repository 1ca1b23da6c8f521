"""Options of the XLA compiler by platform: one table, each option with its reason.

`rnope plan` compiles with them; `train.py` puts them into the environment before jax looks there.
"""

import os
from collections.abc import MutableMapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path


@dataclass(frozen=True)
class Flag:
    """An option of the compiler that differs from its default."""

    name: str
    value: str
    reason: str


#: By platform, as `jax.Device.platform` calls it. Only what a comparison of plans, or the makers of
#: the compiler, give a reason for; every option is one that the platform's compiler knows.
FLAGS: dict[str, tuple[Flag, ...]] = {
    "tpu": (
        # Both as the makers of TPUs set them for training on several slices (AI-Hypercomputer/maxtext,
        # benchmarks/xla_flags_library.py, DATA_PARALLEL_OVERLAP); within one slice they change nothing.
        Flag(
            "xla_tpu_enable_data_parallel_all_reduce_opt",
            "true",
            "sums of gradients between slices run beside the backward pass",
        ),
        Flag(
            "xla_tpu_data_parallel_opt_different_sized_ops",
            "true",
            "also where the summed arrays differ in size, as those of attention and feed-forward layers do",
        ),
    ),
    "gpu": (
        # As NVIDIA sets it in its images of jax, and jax's performance tips for GPUs advise; on one GPU it
        # changes nothing.
        Flag(
            "xla_gpu_enable_latency_hiding_scheduler",
            "true",
            "parameters are gathered and gradients scattered beside other work, not between",
        ),
    ),
    "cpu": (
        Flag(
            "xla_cpu_enable_concurrency_optimized_scheduler",
            "false",
            "programs in the order that needs least memory: a quarter less for a training step, no slower on two "
            "cores (benchmarks/results/train_step_float32.json)",
        ),
    ),
}

#: Variables that the runtime of a platform reads, and the reason for what they are set to.
VARIABLES: dict[str, tuple[Flag, ...]] = {
    "gpu": (
        Flag(
            "XLA_PYTHON_CLIENT_MEM_FRACTION",
            "0.9",
            "jax takes three quarters of a GPU's memory by default; a tenth is enough for CUDA's own libraries",
        ),
    ),
}

#: Where each platform's runtime reads options. XLA_FLAGS must not name options of libtpu: jax's own
#: copy of XLA does not know them, and ends the program.
_VARIABLES = {"tpu": "LIBTPU_INIT_ARGS", "gpu": "XLA_FLAGS", "cpu": "XLA_FLAGS"}


def compiler_options(platform: str) -> dict[str, str | bool]:
    """The options for `Lowered.compile`."""
    options: dict[str, str | bool] = {flag.name: flag.value for flag in FLAGS.get(platform, ())}
    if platform != "tpu":
        # Here XLA reads the options itself, and knows truth by its type.
        return {name: {"true": True, "false": False}.get(str(value), value) for name, value in options.items()}
    return options


def set_environment(environment: MutableMapping[str, str] = os.environ) -> None:
    """Adds options and variables to the environment; what the user has set there stays, whatever it is.

    For every platform at once, because which one there is shows only when it is too late; those of GPUs where jax
    can use GPUs. Must run before jax makes its first array.
    """
    for platform, variable in _VARIABLES.items():
        if platform == "gpu" and not _has_gpu_plugin():
            continue
        given = environment.get(variable, "")
        missing = [flag for flag in FLAGS[platform] if f"--{flag.name}" not in given]
        added = [f"--{flag.name}={flag.value}" for flag in missing]
        if added:
            environment[variable] = " ".join([given, *added]).strip()
        for own in VARIABLES.get(platform, ()):
            environment.setdefault(own.name, own.value)


def _has_gpu_plugin() -> bool:
    return any(find_spec(name) is not None for name in ("jax_cuda13_plugin", "jax_cuda12_plugin"))


def keep_programs(directory: str | None) -> None:
    """Lets JAX keep compiled programs in a directory, and take them from there; None keeps none."""
    if directory is not None:
        import jax

        Path(directory).expanduser().mkdir(parents=True, exist_ok=True)
        jax.config.update("jax_compilation_cache_dir", str(Path(directory).expanduser()))
