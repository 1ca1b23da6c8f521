"""The study's runs: their order, and what one that fails does to the others."""

import argparse
import threading
import time
from pathlib import Path

import pytest

from benchmarks.study import Study
from rnope_jax.errors import UserError


def study(**changed):
    given = {"work": Path("unused"), "variants": ["rope", "nope"], "seeds": [0, 5], "steps": None, "jobs": 1}
    given |= {"multiples": [1, 4], "samples": 2, "share": 0.5}
    return Study(argparse.Namespace(**(given | changed)))


def test_a_whole_comparison_of_one_seed_comes_first(monkeypatch):
    begun = []
    made = study()
    monkeypatch.setattr(made, "_run", lambda variant, seed: begun.append((variant, seed)))
    made.run()
    assert begun == [("rope", 0), ("nope", 0), ("rope", 5), ("nope", 5)]


def test_several_runs_go_on_at_a_time(monkeypatch):
    together = threading.Barrier(2, timeout=10)  # breaks unless two wait for each other
    made = study(jobs=2)
    monkeypatch.setattr(made, "_run", lambda variant, seed: together.wait())
    made.run()


@pytest.mark.parametrize("jobs", [1, 2])
def test_no_run_begins_after_one_has_failed(monkeypatch, jobs):
    begun, failed = [], threading.Event()

    def run(variant, seed):
        begun.append((variant, seed))
        if len(begun) == jobs:
            failed.set()
            raise UserError("this one")
        failed.wait(10)  # those that have begun end by themselves
        time.sleep(0.05)

    made = study(jobs=jobs, seeds=[*range(20)])
    monkeypatch.setattr(made, "_run", run)
    with pytest.raises(UserError, match="this one"):
        made.run()
    assert len(begun) < 10


def test_steps_and_lengths_are_those_of_the_configuration_unless_given():
    made, shorter = study(), study(steps=7)
    assert made.steps == [stage.steps for stage in made.configs["rope"].stages]
    assert shorter.steps == [7, 7]
    assert shorter.results("rope", 5).name == "step-14"
    assert made.lengths == [256, 1024]


@pytest.mark.parametrize(("option", "value"), [("jobs", 0), ("share", 0.0), ("share", 1.0)])
def test_options_out_of_range_are_refused(option, value):
    with pytest.raises(UserError, match=f"--{option} {value}"):
        study(**{option: value})
