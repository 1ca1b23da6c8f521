"""The run directory: whose it is, and who may write to it."""

import os
from dataclasses import replace

import pytest

from rnope_jax.errors import UserError
from rnope_jax.run import Run, open_run
from tests.training.runs import run_config, tree_hash


@pytest.fixture
def config(corpus, tmp_path):
    return run_config(corpus, tmp_path / "run")


def begin(config) -> None:
    with open_run(config) as run:
        run.record(config)
        (run.path / "checkpoints").mkdir()


def test_the_configuration_reads_back(config):
    begin(config)
    assert Run(config.directory).config == config


def test_another_configuration_is_refused_with_the_fields_that_differ(config):
    begin(config)
    before = tree_hash(config.directory)
    other = replace(config, seed=5, model=replace(config.model, d_ff=32))
    with pytest.raises(UserError) as caught, open_run(other):
        pass
    message = str(caught.value)
    assert "model.d_ff: 24 there, 32 now" in message
    assert "seed: 0 there, 5 now" in message
    assert "d_model" not in message
    assert tree_hash(config.directory) == before


def test_a_wholly_different_configuration_is_not_listed_endlessly(config):
    begin(config)
    changes = {"d_model": 32, "d_ff": 48, "num_heads": 2, "num_kv_heads": 1, "head_dim": 4, "num_layers": 6}
    with (
        pytest.raises(UserError, match="and 1 more"),
        open_run(replace(config, model=replace(config.model, **changes))),
    ):
        pass


@pytest.mark.parametrize("section", ["checkpoint", "evaluation", "logging"])
def test_what_is_watched_and_kept_may_change(config, section):
    begin(config)
    other = replace(config, **{section: replace(getattr(config, section), every=7)})
    with open_run(other) as run:
        run.record(other)
    assert Run(config.directory).config == other


def test_a_second_process_is_refused(config):
    """The lock belongs to an open file, so a second opening in this process stands for another one."""
    with (
        open_run(config),
        pytest.raises(UserError, match="another process is training in this directory"),
        open_run(config),
    ):
        pass
    with open_run(config):  # free again
        pass


def test_a_run_that_another_process_began_meanwhile_is_refused(config, monkeypatch):
    """Between the look into the directory and the lock."""
    import fcntl

    real = fcntl.flock

    def late(*args):
        (config.directory / "config.json").write_text(replace(config, seed=1).to_json())
        return real(*args)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(UserError, match="another configuration"), open_run(config):
        pass


@pytest.mark.parametrize("name", ["thesis.txt", "data/mine.txt", "tokenizer/tokenizer.json", "checkpoints/5/x"])
def test_a_directory_that_is_no_run_is_refused_and_untouched(config, name):
    path = config.directory / name
    path.parent.mkdir(parents=True)
    path.write_text("precious")
    before = tree_hash(config.directory)
    with pytest.raises(UserError, match=rf"is not a run directory \(it holds {name.split('/')[0]}\)"), open_run(config):
        pass
    assert tree_hash(config.directory) == before


def test_an_empty_directory_is_welcome(config):
    config.directory.mkdir()
    begin(config)


def test_what_an_unfinished_preparation_left_is_cleared_away(config):
    with open_run(config) as run:
        (run.path / "data" / "half").mkdir(parents=True)
        (run.path / ".tokenizer.partial").mkdir()
    with open_run(config) as run:
        assert sorted(os.listdir(run.path)) == ["lock"]


def test_what_a_recorded_run_holds_stays(config):
    begin(config)
    (config.directory / "data").mkdir()
    before = tree_hash(config.directory)
    with open_run(config):
        pass
    assert tree_hash(config.directory) == before


@pytest.mark.parametrize("content", ["", "{", "[]", '{"name": "x"}'])
def test_an_unreadable_configuration_is_named(config, content):
    begin(config)
    (config.directory / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"config\.json"), open_run(config):
        pass


def test_a_place_that_cannot_be_written_is_refused(config, tmp_path):
    (tmp_path / "file").write_text("")
    for run_dir in (tmp_path / "file", tmp_path / "file" / "run"):
        with (
            pytest.raises(UserError, match="run_dir: cannot write to"),
            open_run(replace(config, run_dir=str(run_dir))),
        ):
            pass


def test_a_run_directory_need_not_exist_to_be_told_it_is_none(tmp_path):
    with pytest.raises(UserError, match="is not a run directory"):
        _ = Run(tmp_path / "nowhere").config
