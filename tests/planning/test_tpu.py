"""The compiler for TPUs itself, ahead of time; left out where it is not installed, as in continuous integration."""

import os
import subprocess
import sys

import pytest

from rnope_jax.planning import topology
from tests.end_to_end.commands import ROOT, TINY

pytestmark = pytest.mark.skipif(not topology.available(), reason="libtpu, the compiler for TPUs, is not installed")

#: Several TPUs cannot be described by one process after CPUs were set up for tests, so each plan is its own.
PROGRAM = "from rnope_jax.cli.main import main; import sys; main(['plan', *sys.argv[1:]])"


def run_plan(*arguments: str) -> subprocess.CompletedProcess:
    environment = {key: value for key, value in os.environ.items() if key not in ("XLA_FLAGS", "JAX_PLATFORMS")}
    command = [sys.executable, "-c", PROGRAM, str(TINY), *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)


@pytest.mark.parametrize("name", ["v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2", "7x:2x2x1"])
def test_every_generation_has_devices(name):
    described = topology.parse(name)
    devices = topology.devices(described)
    assert len(devices) == described.devices
    assert all(device.platform == "tpu" for device in devices)


def test_a_plan_for_two_slices():
    ended = run_plan("--topology", "v5e:2x2", "--slices", "2", "--mesh.data", "2", "--stages.0.batch-size", "16")
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    assert "between slices" in ended.stdout
    assert "splash" in ended.stdout  # what a TPU would take, not this machine
