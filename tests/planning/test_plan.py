"""`rnope plan` from the command line, on devices that stand in for TPUs."""

import json

import jax
import pytest

from rnope_jax.planning import compiling, plan, topology
from tests.end_to_end.commands import TINY, rnope_here


@pytest.fixture
def cpus(monkeypatch):
    """The CPU's devices sit where those of v5e:2x4 would."""

    class Device:
        def __init__(self, device, coords):
            self.device, self.coords, self.slice_index = device, coords, 0

    def network(described, devices):
        places = [(i // 4, i % 4, 0) for i in range(len(devices))]
        return plan_network(described, [Device(d, c) for d, c in zip(devices, places, strict=True)])

    plan_network = plan.Network
    monkeypatch.setattr(plan, "Network", network)
    monkeypatch.setattr(topology, "devices", lambda described: jax.devices()[: described.devices])


ARGUMENTS = ("plan", TINY, "--topology", "v5e:2x4", "--mesh.fsdp", "4", "--mesh.tensor", "2")


def test_a_plan_as_tables(capsys, cpus):
    ended = rnope_here(capsys, *ARGUMENTS, "--stages.0.batch-size", "16")
    assert (ended.code, ended.err) == (0, "")
    for part in ("fits: ", "parameters", "optimizer", "temporaries", "all-gather", "fsdp", "binds", "largest batch"):
        assert part in ended.out
    assert "mesh: fsdp 4, tensor 2" in ended.out
    assert "batch: 16 rows" in ended.out


def test_a_plan_as_json(capsys, cpus):
    ended = rnope_here(capsys, *ARGUMENTS, "--stages.0.batch-size", "16", "--stage", "first", "--json")
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    assert found["fits"] is True
    memory = found["memory_per_device"]
    assert memory["total"] + memory["spare"] == memory["limit"] == int(15.75 * 2**30)
    assert {talk["kind"] for talk in found["collectives"]} >= {"all-gather", "all-reduce"}
    assert found["roofline"]["bound"] in {"compute", "memory", *found["roofline"]["links"]}
    assert found["context_parallelism"] is None
    assert found["stage"] == "first"


@pytest.mark.parametrize(
    ("message", "parts"),
    [
        (
            "Ran out of memory on HBM, the total memory required for HLO temporaries (20.00G) exceeds available HBM "
            "(15.75G).",
            ["does not fit: needs 20.0", "4.25 GiB more than the 15.75 GiB"],
        ),
        (
            "XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 18.75G of 15.75G hbm. "
            "Exceeded hbm capacity by 3.00G.",
            ["does not fit: needs 18.75 GiB", "3.00 GiB more than the 15.75 GiB"],
        ),
        (
            "Ran out of memory in memory space vmem. Used 20.00M of 16.00M vmem.",
            ["does not fit; the compiler: RESOURCE_EXHAUSTED", "vmem"],
        ),
    ],
)
def test_a_program_that_does_not_fit_is_reported_like_any_other(capsys, cpus, monkeypatch, message, parts):
    class Step:
        def lower(self, state, batch):
            return self

        def compile(self, compiler_options):
            raise jax.errors.JaxRuntimeError(f"RESOURCE_EXHAUSTED: {message}\nmore")

    monkeypatch.setattr(compiling, "make_train_step", lambda *_: Step())
    ended = rnope_here(capsys, *ARGUMENTS, "--stages.0.batch-size", "16")
    assert (ended.code, ended.err) == (0, "")
    for part in parts:
        assert part in ended.out


@pytest.mark.parametrize(
    ("arguments", "hints"),
    [
        (("--topology", "v5x:4x4"), ["no TPU 'v5x'", "v5e"]),
        (("--topology", "v5e:3x3"), ["no v5e slice of this shape"]),
        (("--topology", "v5e:2x4", "--stage", "third"), ["--stage third", "0 (first), 1 (second)"]),
        (("--topology", "v5e:2x4", "--mesh.fsdp", "3"), ["mesh.fsdp = 3", "8"]),
        (("--topology", "v5e:2x4", "--stages.0.batch-size", "7"), ["batch_size = 7", "8"]),
    ],
)
def test_mistakes_end_with_one_message(capsys, cpus, arguments, hints):
    ended = rnope_here(capsys, "plan", TINY, *arguments)
    assert ended.code == 2
    assert ended.out == ""
    for hint in hints:
        assert hint in ended.err
