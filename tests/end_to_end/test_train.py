"""From the command to the closing message, and what can be done next."""

import json
import shlex
import subprocess
from pathlib import Path

import pytest

from rnope_jax.run import Run
from tests.end_to_end.commands import ROOT, TINY, finish, rnope_here, start
from tests.training.runs import metrics


def test_a_run_ends_well(finished):
    _, ended = finished
    assert (ended.code, ended.err) == (0, "")


def test_it_leaves_a_figure_samples_checkpoints_and_events(finished):
    run = Run(finished[0])
    assert (run.figures / "loss.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    samples = run.samples.read_text()
    assert "'river' goes on:\nriver" in samples
    assert "'the stone' goes on:\nthe stone" in samples
    assert sorted(path.name for path in run.checkpoints.iterdir()) == ["18", "19", "20"]
    assert list(run.tensorboard.iterdir())
    assert run.config.total_steps == 20


def test_its_metrics_are_well_formed(finished):
    lines = [json.loads(line) for line in Run(finished[0]).metrics.read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == list(range(1, 21))
    for line in steps:
        assert line["loss"] > 0
        assert line["tokens_per_second"] > 0
        assert 0 <= line["data_wait"] <= 1
    assert steps[-1]["loss"] < steps[0]["loss"] - 0.5
    held_out = [line for line in lines if "held_out_loss" in line]
    assert [(line["step"], line["final"]) for line in held_out] == [(0, False), (10, False), (20, True)]


def test_its_last_words_tell_the_result_and_the_next_command(finished):
    run_dir, ended = finished
    after = ended.out[ended.out.index("done: ") :]
    assert f"done: {run_dir}" in after
    assert "bits/byte (xz -9 on the same bytes: " in after
    assert str(run_dir / "figures" / "loss.png") in after
    command = after.splitlines()[after.splitlines().index("next:") + 1].strip()
    program, *words = shlex.split(command)
    assert words == ["generate", str(run_dir), "river"]
    # And it works as it is printed, whether the environment is activated or not.
    sampled = subprocess.run(f"{command} --max-tokens 8", shell=True, cwd=ROOT, capture_output=True, text=True)
    assert (sampled.returncode, sampled.stderr) == (0, "")
    assert Path(program).name == "rnope"
    assert sampled.stdout.startswith("river")
    assert len(sampled.stdout.strip()) > len("river")


def test_generating_at_temperature_zero_gives_the_same_text_always(finished, capsys):
    arguments = ("generate", finished[0], "the stone", "--max-tokens", 12, "--temperature", 0)
    first = rnope_here(capsys, *arguments)
    assert first.code == 0
    assert first.out.startswith("the stone")
    assert rnope_here(capsys, *arguments, "--seed", 9).out == first.out
    drawn = {rnope_here(capsys, *arguments[:-1], 1.5, "--seed", seed).out for seed in range(3)}
    assert len(drawn) == 3


def test_what_was_compiled_and_a_profile_are_left_where_asked_for(text, finished, tmp_path):
    """And the compiler, with the settings that users have, makes of it what it makes with those of the tests."""
    run, kept = Run(tmp_path / "run"), tmp_path / "kept"
    short = ("--stages.0.steps", 4, "--stages.1.steps", 3, "--evaluation.prompts", "--evaluation.every", 100)
    asked = ("--logging.programs", "True", "--logging.profile-step", 1, "--logging.compile-cache", kept)
    command = ("train.py", TINY, "--data.corpus", text, "--run-dir", run.path, *short, *asked)
    ended = finish(start(tmp_path / "unused", *command, flags=()))
    assert (ended.code, ended.err) == (0, "")
    ours, theirs = ([line["loss"] for line in metrics(path) if "loss" in line][:3] for path in (run.path, finished[0]))
    assert ours == pytest.approx(theirs, rel=1e-4)
    programs = sorted(run.programs.iterdir())
    assert [path.name for path in programs] == ["first.txt", "second.txt"]
    assert all(path.read_text().startswith("HloModule jit_step") for path in programs)
    assert list(run.profile.rglob("*.xplane.pb"))
    assert list(kept.iterdir())
