"""`rnope doctor` tells what would stop a run, and changes nothing."""

import fcntl
import json
import sys
import tomllib

import pytest

from rnope_jax import attention
from rnope_jax.cli.config_file import load
from rnope_jax.doctor import disk, machine
from rnope_jax.training import preflight
from tests.end_to_end.commands import ROOT, TINY, rnope_here
from tests.training.runs import tree_hash
from tests.training.steps import mesh_of


@pytest.fixture
def doctor(capsys, tmp_path, text):
    """Runs it on tiny.py in an empty directory; what it found by section and name."""

    def examine(*arguments):
        where = ("--run-dir", tmp_path / "runs" / "mine", "--data.corpus", text)
        ended = rnope_here(capsys, "doctor", TINY, *where, *arguments, "--json")
        assert ended.err == ""
        found = json.loads(ended.out)
        assert found["fine"] is (ended.code == 0)
        assert all(entry["remedy"] for entry in found["findings"] if entry["state"] != "fine")
        return ended.code, {(entry["section"], entry["name"]): entry for entry in found["findings"]}

    return examine


def stops(found):
    return [name for (_, name), entry in found.items() if entry["state"] == "stop"]


def test_a_run_that_can_begin(doctor, tmp_path):
    before = tree_hash(tmp_path)
    code, found = doctor()
    assert (code, stops(found)) == (0, [])
    assert tree_hash(tmp_path) == before
    assert found["versions", "jax"]["value"]
    assert "8 x cpu" in found["devices", "cpu"]["value"]
    assert "GiB available of" in found["memory", "this machine"]["value"]
    assert found["attention", "1 x window 5 + RoPE 100"]["value"].startswith("blockwise: plain XLA")
    for check in preflight.checks(load(str(TINY)), mesh_of()):
        assert found["run", check.name]["value"] == check.promise
    # A checkpoint is kept as often as the configuration says, and one more while an old one goes.
    assert "4 more are to be kept" in found["run", "checkpoints"]["value"]


STOPS = {
    "batches": ("--stages.0.batch-size", "12"),
    "parameters": ("--mesh.fsdp", "2", "--mesh.tensor", "4"),
    "layers": ("--model.attention", "splash"),
    "reports": ("--logging.wandb", "project"),
    "data": ("--data.corpus", "nowhere"),
    "init": ("--init.source", "nowhere"),
    "mesh": ("--mesh.data", "3"),
}


@pytest.mark.parametrize("name", STOPS)
def test_what_would_stop_it_is_named_and_nothing_hides_behind_it(doctor, monkeypatch, name):
    monkeypatch.setitem(sys.modules, "wandb", None)
    code, found = doctor(*STOPS[name])
    # The tokenizer may come from what training begins from.
    expected = {"data", "init"} if name == "init" else {name}
    assert (code, set(stops(found))) == (1, expected)
    code, found = doctor(*STOPS[name], "--model.attention", "cudnn")
    assert (code, set(stops(found))) == (1, expected if name == "mesh" else {*expected, "layers"})


def test_a_directory_of_another_run_stops_it(doctor, tmp_path):
    other = tmp_path / "runs" / "mine"
    other.mkdir(parents=True)
    (other / "letters").touch()
    assert stops(doctor()[1]) == ["run directory"]


def test_too_little_memory_or_disk_stops_it(doctor, monkeypatch):
    from rnope_jax.doctor import run

    monkeypatch.setattr(run, "host_memory", lambda: (10_000, 10_000))
    assert stops(doctor()[1]) == ["memory"]
    monkeypatch.undo()
    free = disk.shutil.disk_usage("/")._replace(free=10_000)
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: free)
    code, found = doctor()
    assert (code, stops(found)) == (1, ["checkpoints"])
    assert found["disk", "run directory"]["state"] == "note"


def test_a_file_system_without_sync_or_locks_stops_it(doctor, monkeypatch):
    def refuse(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    code, found = doctor()
    assert (code, stops(found)) == (1, ["run directory, writing"])
    assert "Operation not supported" in found["disk", "run directory, writing"]["value"]


def test_a_file_where_a_directory_should_be_stops_it(tmp_path):
    (tmp_path / "file").touch()
    (found,) = disk.directory("run directory", tmp_path / "file" / "run")
    assert found.state == "stop"
    assert "is not a directory" in found.value


def test_variables_are_told_with_who_has_set_them():
    found = {entry.name: entry for entry in machine.environment({"JAX_PLATFORMS": "cpu", "HOME": "/root"})}
    assert found["JAX_PLATFORMS"].value == "cpu (yours)"
    assert found["LIBTPU_INIT_ARGS"].value.endswith("(set by train.py)")
    assert "HOME" not in found
    assert [entry.state for entry in machine.environment({"JAX_DISABLE_JIT": "1"})][-1] == "stop"


def test_all_extras_are_known_and_told(monkeypatch):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {extra.name for extra in machine.EXTRAS} == set(extras) - {"test", "dev", "docs"}
    monkeypatch.setattr(machine.util, "find_spec", lambda name: None if name == "gguf" else object())
    found = {entry.name: entry for entry in machine.extras()}
    assert [entry.name for entry in found.values() if entry.state == "note"] == ["interop"]
    assert found["interop"].remedy == "pip install 'rnope-jax[interop]'"


def test_devices_that_fail_end_the_examination_of_the_run(capsys, monkeypatch):
    import jax

    def fail():
        raise RuntimeError("Unable to initialize backend 'cuda'\nmore")

    monkeypatch.setattr(jax, "devices", fail)
    _, findings = machine.devices()
    assert (findings[0].state, findings[0].value) == ("stop", "Unable to initialize backend 'cuda'")


def test_the_reason_for_a_backend_is_that_of_the_choice(monkeypatch):
    devices = {
        "splash": ("tpu", "TPU v5"),
        "pallas_gpu": ("gpu", "NVIDIA H100"),
        "blockwise": ("cpu", "cpu"),
    }
    for backend, device in devices.items():
        monkeypatch.setattr(attention, "target", lambda device=device: device)
        chosen = attention.explain("auto", None)
        assert chosen.backend == attention.choose("auto", None) == backend
        assert chosen.reason
    named = attention.explain("reference", 5)
    assert named == ("reference", 'model.attention = "reference"')


def test_the_machine_alone_as_a_table(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    ended = rnope_here(capsys, "doctor")
    assert (ended.code, ended.err) == (0, "")
    assert "would stop a run" in ended.out
    assert "attention" not in ended.out
    refused = rnope_here(capsys, "doctor", "--mesh.fsdp", "2")
    assert refused.code == 2
    assert "name it first: rnope doctor CONFIG --mesh.fsdp" in refused.err


def test_a_configuration_that_is_none_is_refused(capsys):
    ended = rnope_here(capsys, "doctor", "nowhere.py")
    wanted = "configuration file nowhere.py does not exist; give FILE.py, FILE.py:FUNCTION or a run directory"
    assert (ended.code, ended.err) == (2, f"error: {wanted}\n")
