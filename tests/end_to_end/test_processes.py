"""Several processes train one model: the same numbers, one end, and a new beginning when one dies."""

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from rnope_jax.checkpoint import integrity
from tests.checkpoint.faults import flip_bit, kinds
from tests.end_to_end.commands import TINY, finish, signal_when, start
from tests.training.runs import metrics

#: What one process computes, another number of them computes in another order of sums.
TOLERANCE = 2e-6

#: So many steps that a stop comes before the last: processes agree on it within some of them.
LONG = ("--stages.1.steps", 5000, "--checkpoint.every", 20, "--evaluation.every", 10_000)


def launch(compiled, text, run_dir, *options, processes=2, restarts=0):
    arguments = ("launch", "--processes", processes, "--restarts", restarts, "--")
    training = ("train.py", TINY, "--data.corpus", text, "--run-dir", run_dir, "--evaluation.prompts", *options)
    return start(compiled, "-m", "rnope_jax.cli.main", *arguments, *training)


def losses(run_dir) -> dict[int, float]:
    return {line["step"]: line["loss"] for line in metrics(run_dir) if "loss" in line}


def assert_same_losses(run_dir, expected_dir) -> None:
    found, expected = losses(run_dir), losses(expected_dir)
    assert list(found) == list(expected)
    for step, loss in expected.items():
        assert found[step] == pytest.approx(loss, rel=TOLERANCE), step


def work(run_dir) -> dict[int, float]:
    """Model FLOPs of each token, by step."""
    lines = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line["model_tflops"] / line["tokens_per_second"] for line in lines if "loss" in line}


def members(process) -> list[int]:
    """The processes that a launcher has started, by number."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            environment = (entry / "environ").read_bytes().split(b"\0")
        except (OSError, IndexError, ValueError):
            continue
        if parent == process.pid:
            index = [value for value in environment if value.startswith(b"JAX_PROCESS_ID=")]
            found[int(index[0].split(b"=")[1])] = int(entry.name)
    return [found[index] for index in sorted(found)]


def wait_for(condition, process) -> None:
    deadline = time.monotonic() + 600
    while not condition():
        assert process.poll() is None, finish(process)
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_several_processes_compute_what_one_computes(finished, text, compiled, tmp_path):
    """Four: parameters and rows are split over two, and each row over two."""
    mesh = ("--mesh.fsdp", 2, "--mesh.context", 2)
    ended = finish(launch(compiled, text, tmp_path / "run", *mesh, processes=4))
    assert ended.code == 0, ended
    assert_same_losses(tmp_path / "run", finished[0])
    assert work(tmp_path / "run") == pytest.approx(work(finished[0]), rel=1e-9)
    assert ended.out.count("done: ") == 1


def test_several_processes_agree_on_the_newest_good_checkpoint_and_seal_theirs(finished, text, compiled, tmp_path):
    """The first one looks; the others take its word."""
    run_dir = shutil.copytree(finished[0], tmp_path / "run")
    for step in (19, 20):
        flip_bit(kinds(run_dir / "checkpoints" / str(step))["state/d/*"][0], random.Random(step))
    ended = finish(launch(compiled, text, run_dir))
    assert ended.code == 0, ended
    assert "set aside as damaged-20" in ended.out
    assert ended.out.count("resuming after step 18") == 1
    names = sorted(path.name for path in (run_dir / "checkpoints").iterdir())
    assert names == ["18", "19", "20", "damaged-19", "damaged-20"]
    for step in (18, 19, 20):
        assert integrity.is_sealed(run_dir / "checkpoints" / str(step))
        assert integrity.damage(run_dir / "checkpoints" / str(step)) is None
    assert set(kinds(run_dir / "checkpoints" / "20")) > {"state/ocdbt.process_1/d/*"}
    assert_same_losses(run_dir, finished[0])


def test_a_stop_of_one_process_is_a_stop_of_all(finished, text, compiled, tmp_path):
    run_dir = tmp_path / "run"
    process = launch(compiled, text, run_dir, *LONG)
    wait_for((run_dir / "checkpoints" / "20").exists, process)
    os.kill(members(process)[1], signal.SIGTERM)
    ended = finish(process)
    assert ended.code == 0, ended
    last = max(int(entry.name) for entry in (run_dir / "checkpoints").iterdir())
    assert f"stopped after step {last} of 5014; the same command goes on from there" in ended.out
    first_stage = [losses(path) for path in (run_dir, finished[0])]
    for step in range(1, 15):
        assert first_stage[0][step] == pytest.approx(first_stage[1][step], rel=TOLERANCE)
    assert set(first_stage[0]) == set(range(1, last + 1))


def test_when_one_process_is_killed_the_others_end_and_training_goes_on_with_those_left(
    finished, text, compiled, tmp_path
):
    run_dir = tmp_path / "run"
    process = launch(compiled, text, run_dir, restarts=1)
    wait_for((run_dir / "checkpoints" / "3").exists, process)
    os.kill(members(process)[1], signal.SIGKILL)
    ended = finish(process)
    assert ended.code == 0, ended
    assert "launch: starting again with 1 processes" in ended.err
    assert "resuming after step" in ended.out
    assert_same_losses(run_dir, finished[0])


def test_a_mistake_in_the_input_is_told_once_for_all(text, compiled, tmp_path):
    ended = finish(launch(compiled, text, tmp_path / "run", "--stages.0.batch-size", 3, restarts=3))
    assert ended.code == 2, ended
    assert "batch_size = 3: must be divisible by 2" in ended.err
    assert "Traceback" not in ended.err
    assert not (tmp_path / "run").exists()


def test_the_launcher_itself_can_be_stopped(text, compiled, tmp_path):
    run_dir = tmp_path / "run"
    process = launch(compiled, text, run_dir, *LONG)
    signal_when(process, (run_dir / "checkpoints" / "20").exists, signal.SIGTERM)
    ended = finish(process)
    assert ended.code == 0, ended
    assert "the same command goes on from there" in ended.out
