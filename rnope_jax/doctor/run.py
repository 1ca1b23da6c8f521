"""What one configuration needs: kernels, memory, space for checkpoints, and its inputs."""

import math
import shutil
from collections import Counter
from collections.abc import Iterator

import jax
from jax.sharding import Mesh

from rnope_jax import attention
from rnope_jax.checkpoint import saved_steps
from rnope_jax.config import Config
from rnope_jax.doctor.disk import nearest
from rnope_jax.doctor.finding import Finding
from rnope_jax.doctor.machine import accelerator_memory, host_memory
from rnope_jax.errors import UserError
from rnope_jax.planning.compiling import local_bytes
from rnope_jax.run import check_run
from rnope_jax.sharding import make_mesh
from rnope_jax.training import preflight
from rnope_jax.training.state import abstract_state

_GIB = 2**30


def needs(config: Config) -> Iterator[Finding]:
    """Everything that `train.py` checks before it writes, without ending at the first mistake."""
    yield from kernels(config)
    try:
        check_run(config)
        yield Finding("run", "run directory", f"{config.directory} can be begun, or gone on with")
    except UserError as error:
        yield _stop("run directory", error)
    try:
        mesh = make_mesh(config.mesh)
    except UserError as error:
        yield _stop("mesh", error)
        return
    whole = True
    for check in preflight.checks(config, mesh):
        try:
            check.run()
            yield Finding("run", check.name, check.promise)
        except UserError as error:
            whole = False
            yield _stop(check.name, error)
    if whole:
        yield from sizes(config, mesh)


def _stop(name: str, error: UserError) -> Finding:
    return Finding("run", name, str(error), "stop", "change what the message names")


def kernels(config: Config) -> Iterator[Finding]:
    """The attention backend of each kind of layer, on packed rows, as training has them."""
    model = config.model
    for kind, number in Counter(model.layer_kinds).items():
        chosen = attention.explain(model.attention, kind.window, head_dim=model.head_dim, dtype=model.compute_dtype)
        yield Finding("attention", f"{number} x {kind}", f"{chosen.backend}: {chosen.reason}")


def sizes(config: Config, mesh: Mesh) -> Iterator[Finding]:
    """Memory and disk that the state of training takes, beside what there is."""
    state = abstract_state(config, mesh)
    here = len(mesh.local_devices)
    each = local_bytes(state.params) + local_bytes(state.optimizer)
    limit = accelerator_memory()
    needed, has = (each, limit) if limit is not None else (each * here, host_memory()[0])
    where = "of each device" if limit is not None else "of this machine"
    value = (
        f"parameters and optimizer take {needed / _GIB:.2f} of {has / _GIB:.1f} GiB {where}; "
        "`rnope plan` tells of the rest"
    )
    if needed > has:
        yield Finding("run", "memory", value, "stop", "more devices (--mesh.fsdp), or a smaller model")
    else:
        yield Finding("run", "memory", value)

    size = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    # A new checkpoint is whole before an old one goes.
    missing = max(0, config.checkpoint.keep + 1 - len(saved_steps(config.directory / "checkpoints")))
    free = shutil.disk_usage(nearest(config.directory)).free
    value = (
        f"a checkpoint takes {size / _GIB:.2f} GiB, and {missing} more are to be kept; {free / _GIB:,.1f} GiB are free"
    )
    if missing * size > free:
        yield Finding("run", "checkpoints", value, "stop", "--checkpoint.keep 1, or --run-dir on a larger disk")
    else:
        yield Finding("run", "checkpoints", value)
