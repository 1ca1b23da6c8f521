"""Options of the XLA compiler by platform: one table, each option with its reason.

`rnope plan` compiles with them; `train.py` puts them into the environment before jax looks there.
"""

import os
from collections.abc import MutableMapping
from dataclasses import dataclass


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
    "gpu": (),
    "cpu": (),
}

#: Where each platform's runtime reads options. XLA_FLAGS must not name options of libtpu: jax's own
#: copy of XLA does not know them, and ends the program.
_VARIABLES = {"tpu": "LIBTPU_INIT_ARGS", "gpu": "XLA_FLAGS", "cpu": "XLA_FLAGS"}


def compiler_options(platform: str) -> dict[str, str]:
    """The options for `Lowered.compile`."""
    return {flag.name: flag.value for flag in FLAGS.get(platform, ())}


def set_environment(environment: MutableMapping[str, str] = os.environ) -> None:
    """Adds the options to the environment, for every platform at once; what the user has set there stays.

    Must run before jax makes its first array. An option that the user has set, to any value, is left alone.
    """
    for platform, variable in _VARIABLES.items():
        given = environment.get(variable, "")
        missing = [flag for flag in FLAGS[platform] if f"--{flag.name}" not in given]
        added = [f"--{flag.name}={flag.value}" for flag in missing]
        if added:
            environment[variable] = " ".join([given, *added]).strip()
