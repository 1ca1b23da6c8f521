"""Which environments mean that there are other processes."""

import importlib.util

import jax
import pytest

from rnope_jax.errors import UserError
from rnope_jax.training import processes

ALL = (
    *(processes.ADDRESS, processes.COUNT, processes.INDEX, *processes._COUNTS),
    *("TPU_WORKER_HOSTNAMES", "KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"),
)
PART_OF_JOB = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "3"}


class Machine:
    """What `join` sees, and what it asked JAX for."""

    def __init__(self, monkeypatch, tmp_path):
        self.monkeypatch, self.tmp_path, self.asked, self.packages = monkeypatch, tmp_path, [], set()
        for name in ALL:
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(processes, "_CHIPS", (f"{tmp_path}/accel*",))
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: name if name in self.packages else None)
        monkeypatch.setattr(jax.config, "update", lambda *_: None)
        self.answers(None)

    def answers(self, error):
        def initialize(**settings):
            self.asked.append(settings)
            if error:
                raise error

        self.monkeypatch.setattr(jax.distributed, "initialize", initialize)

    def join(self, **environment):
        for name, value in environment.items():
            self.monkeypatch.setenv(name, value)
        processes.join()
        return len(self.asked)

    def add_tpu(self):
        self.packages.add("libtpu")
        (self.tmp_path / "accel0").touch()


@pytest.fixture
def machine(monkeypatch, tmp_path):
    return Machine(monkeypatch, tmp_path)


@pytest.mark.parametrize(
    "environment",
    [
        {"SLURM_STEP_NUM_TASKS": "2"},
        {"OMPI_COMM_WORLD_SIZE": "8"},
        {"MEGASCALE_NUM_SLICES": "2"},
        {"TPU_WORKER_HOSTNAMES": "a,b"},
    ],
)
def test_a_scheduler_that_started_several_is_asked(machine, environment):
    assert machine.join(**environment) == 1
    assert machine.asked[0]["coordinator_address"] is None  # JAX finds it


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"SLURM_STEP_NUM_TASKS": "1"},
        {"TPU_WORKER_HOSTNAMES": "localhost"},
        {"KUBERNETES_SERVICE_HOST": "10.0.0.1"},  # a pod, but no part of a group
        {**PART_OF_JOB, processes.COUNT: "1"},
    ],
)
def test_one_process_asks_nobody(machine, environment):
    assert machine.join(**environment) == 0


def test_what_the_user_sets_is_taken(machine):
    given = {processes.ADDRESS: "host:1", processes.COUNT: "4", processes.INDEX: "3"}
    assert machine.join(**given, **PART_OF_JOB) == 1
    assert [machine.asked[0][key] for key in ("coordinator_address", "num_processes", "process_id")] == ["host:1", 4, 3]


def test_a_part_of_a_job_that_cannot_find_the_others_is_refused(machine):
    with pytest.raises(UserError, match=r"part 3 of a Kubernetes Job: set JAX_COORDINATOR_ADDRESS"):
        machine.join(**PART_OF_JOB)
    machine.packages.add("kubernetes")
    assert machine.join() == 1


def test_a_tpu_host_asks_for_its_pod_and_may_be_alone(machine):
    machine.add_tpu()
    assert machine.join() == 1
    machine.answers(ValueError("coordinator_address should be defined."))
    assert machine.join() == 2
    machine.answers(RuntimeError("the others do not answer\nmore"))
    with pytest.raises(UserError, match=r"cannot join the other processes: the others do not answer; see that"):
        machine.join()


def test_a_scheduled_process_is_never_taken_for_one_alone(machine):
    machine.add_tpu()
    machine.answers(ValueError("coordinator_address should be defined."))
    with pytest.raises(UserError, match="cannot join"):
        machine.join(TPU_WORKER_HOSTNAMES="a,b")
