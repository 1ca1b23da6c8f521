"""Data that cannot be read any more: what was computed is saved, and the run ends with a message."""

import errno
import os

import jax
import numpy as np
import pytest

from rnope_jax.data import DataError, Mixture, TokenStore
from rnope_jax.training import loop
from tests.training.runs import metrics, run_config, train


@pytest.fixture
def config(corpus, tmp_path):
    return run_config(corpus, tmp_path / "run")


def finish(config, unbroken) -> None:
    result = train(config)
    jax.tree.map(np.testing.assert_array_equal, result.state, unbroken.state)
    found, expected = (
        [line for line in metrics(path) if "loss" in line] for path in (config.directory, unbroken.run.path)
    )
    assert found == expected


def when_made(monkeypatch, step: int, action) -> None:
    """Does something just before the batch of a step is read."""
    sound = Mixture.batch

    def batch(self, at, wanted=None):
        if (self.stage.name, at) == ("first", step):
            action(self)
        return sound(self, at, wanted)

    monkeypatch.setattr(Mixture, "batch", batch)


def test_a_file_that_is_cut_short_meanwhile(config, unbroken, monkeypatch):
    taken = {}

    def cut(mixture):
        path = mixture.stores[0].directory / "tokens.bin"
        taken[path] = path.read_bytes()
        os.truncate(path, 64)

    with monkeypatch.context() as patch:
        when_made(patch, 4, cut)
        with pytest.raises(DataError) as caught:
            train(config)
    assert "tokens.bin ended early, at byte " in str(caught.value)
    assert str(caught.value).endswith("Step 4 was saved; the same command goes on from there")
    assert {path.name for path in (config.directory / "checkpoints").iterdir()} == {"3", "4"}
    for path, content in taken.items():
        path.write_bytes(content)
    finish(config, unbroken)


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.ENOTCONN])
def test_a_mount_that_vanishes(code, config, monkeypatch):
    """Reading fails from some moment on."""

    def fail(mixture):
        monkeypatch.setattr(TokenStore, "read", vanished)

    def vanished(self, first, stop):
        raise OSError(code, os.strerror(code), str(self.directory / "tokens.bin"))

    when_made(monkeypatch, 2, fail)
    with pytest.raises(DataError) as caught:
        train(config)
    message = str(caught.value)
    assert message.startswith("the data cannot be read any more: ")
    assert f"tokens.bin: {os.strerror(code)}" in message
    assert message.endswith("Step 2 was saved; the same command goes on from there")


def test_held_out_text_that_cannot_be_read(config, unbroken, monkeypatch):
    """At the evaluation after step 5."""
    sound, times = loop.held_out_loss, []

    def loss(step, params, batches, store, stopping):
        times.append(True)
        path = store.directory / "tokens.bin"
        content = path.read_bytes()
        if len(times) == 2:
            os.truncate(path, 10)
        try:
            return sound(step, params, batches, store, stopping)
        finally:
            path.write_bytes(content)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "held_out_loss", loss)
        with pytest.raises(DataError, match=r"ended early(.|\n)*Step 5 was saved"):
            train(config)
    finish(config, unbroken)


def test_before_the_first_step_there_is_nothing_to_save(config, monkeypatch):
    def fail(mixture):
        raise OSError(errno.EIO, "Input/output error")

    when_made(monkeypatch, 0, fail)
    with pytest.raises(DataError, match=r"Input/output error$"):
        train(config)
    assert not list((config.directory / "checkpoints").iterdir())


def test_a_mistake_of_ours_is_not_hidden(config, monkeypatch):
    def fail(mixture):
        raise IndexError("ours")

    when_made(monkeypatch, 3, fail)
    with pytest.raises(IndexError, match="ours"):
        train(config)
