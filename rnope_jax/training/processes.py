"""Several processes that train one model together: how they meet, take turns and agree.

The environment says that there are several: `rnope launch` on one machine, Slurm, Open MPI,
Kubernetes or a TPU pod. All run the same program on a file system that they share; the first one writes what is
written once. A process that dies takes the others with it, within a minute: what they hold is of no
use without its part. Whoever started them starts them again, and the run goes on from its newest
checkpoint, on any number of processes.
"""

import contextlib
import glob
import importlib.util
import os
from collections.abc import Callable, Iterator
from typing import TypeVar

import jax

from rnope_jax.checkpoint import wait_for_all
from rnope_jax.config import Config
from rnope_jax.errors import UserError
from rnope_jax.run import Run, open_run
from rnope_jax.training.signals import StopRequest, Task, handed_back

T = TypeVar("T")

#: Set by `rnope launch`, or by hand: where the first process listens, how many there are, which this is.
ADDRESS, COUNT, INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"

#: Where schedulers say how many processes there are: Slurm, Open MPI, TPU slices of several.
_COUNTS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "MEGASCALE_NUM_SLICES")

#: Where TPU chips show on a machine.
_CHIPS = ("/dev/accel[0-9]*", "/dev/vfio/[0-9]*")

#: What JAX says where it finds no others.
_ALONE = "coordinator_address should be defined"

#: Seconds without a sign of life after which a process counts as dead, and for which others wait at the end.
_HEARTBEAT = 30

#: Seconds in which all processes must have started.
_START = 300


def join() -> None:
    """Joins the other processes, if there are any. To be called before anything asks JAX for devices.

    Raises:
      UserError: if the environment is incomplete, or the others do not come.
    """
    settings = dict.fromkeys(("coordinator_address", "num_processes", "process_id"))
    if ADDRESS in os.environ:
        missing = [name for name in (COUNT, INDEX) if not os.environ.get(name, "").isdigit()]
        if missing:
            raise UserError(f"{ADDRESS} is set, so {missing[0]} must be a number; `rnope launch` sets all three")
        count, index = (int(os.environ[name]) for name in (COUNT, INDEX))
        settings = {"coordinator_address": os.environ[ADDRESS], "num_processes": count, "process_id": index}
    elif os.environ.get(COUNT) == "1" or not (_scheduled() or _has_tpu()):
        return
    # For processes whose devices are CPUs; of no effect elsewhere.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")

    def initialize() -> None:
        jax.distributed.initialize(
            **settings,
            initialization_timeout=_START,
            heartbeat_timeout_seconds=_HEARTBEAT,
            shutdown_timeout_seconds=_HEARTBEAT,
        )

    try:
        with handed_back():
            waiting = Task(initialize)
            while not waiting.over(1.0):
                pass  # here a signal is heard
            waiting.result()
    except (RuntimeError, ValueError) as error:
        if _ALONE in str(error) and not _scheduled():
            return  # a TPU host that belongs to no pod
        said = str(error).splitlines()[0]
        raise UserError(
            f"cannot join the other processes: {said}; see that all are started, and that {ADDRESS} can be reached"
        ) from error


def _scheduled() -> bool:
    """Whether a scheduler that JAX knows has started several processes.

    Raises:
      UserError: if this is a part of an indexed Kubernetes Job, and what JAX needs to find the others is missing.
    """
    if os.environ.keys() >= {"KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"} and not _has_tpu():
        if importlib.util.find_spec("kubernetes") is None:
            raise UserError(
                f"this is part {os.environ['JOB_COMPLETION_INDEX']} of a Kubernetes Job: set {ADDRESS}, {COUNT} and "
                f"{INDEX} as docs/clusters.md shows, or install jax[k8s]; {COUNT}=1 if every part is a run of its own"
            )
        return True
    counts = (os.environ.get(name, "1") for name in _COUNTS)
    hosts = os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",")
    return len(hosts) > 1 or any(count.isdigit() and int(count) > 1 for count in counts)


def _has_tpu() -> bool:
    """Whether this machine has TPUs; which others belong to them is known to its metadata server, which JAX asks."""
    chips = (path for pattern in _CHIPS for path in glob.iglob(pattern))
    return importlib.util.find_spec("libtpu") is not None and any(chips)


def is_first() -> bool:
    """Whether this process writes what is written once."""
    return jax.process_index() == 0


@contextlib.contextmanager
def open_run_together(config: Config) -> Iterator[Run]:
    """`open_run` in the first process; the others join it when it stands."""
    if is_first():
        with open_run(config) as run:
            wait_for_all("run opened", _START)
            yield run
    else:
        wait_for_all("run opened", _START)
        yield Run(config.directory)


def first_alone(stop: StopRequest, action: Callable[[], None]) -> None:
    """Lets the first process act while the others wait: of several that write one file at once, some would fail.

    Raises:
      Stopped: if a stop was requested of any process meanwhile; the others likewise.
    """
    stop.or_end(action if is_first() else _nothing)


def first_then_all(stop: StopRequest, action: Callable[[], T]) -> T:
    """Lets the first process act, then the others, who find what it has made and write nothing.

    Raises:
      Stopped: if a stop was requested of any process meanwhile.
    """
    made = stop.or_end(action if is_first() else _nothing)
    found = stop.or_end(_nothing if is_first() else action)
    result = made if is_first() else found
    assert result is not None
    return result


def _nothing() -> None:
    """What the others do."""
