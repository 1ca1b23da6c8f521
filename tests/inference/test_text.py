"""A trained run as something that continues text."""

import shutil

import jax
import numpy as np
import pytest

from rnope_jax.errors import UserError
from rnope_jax.inference import Sampling, arrange, load
from tests.training.conftest import corpus, unbroken

__all__ = ["corpus", "unbroken"]  # fixtures


@pytest.fixture(scope="module")
def text_model(unbroken):
    return load(unbroken.run.path)


def test_the_newest_parameters_are_loaded_with_the_model_of_their_stage(text_model, unbroken):
    assert text_model.step == 10
    assert text_model.config.layer_kinds[0].rope_theta == 10_000.0  # the second stage's
    _, params = arrange(unbroken.run.config.model, unbroken.state.params)
    assert text_model.params.keys() == params.keys()
    for name, expected in params.items():
        np.testing.assert_array_equal(text_model.params[name], expected)


def test_an_earlier_checkpoint_has_the_model_of_its_own_stage(unbroken, tmp_path):
    copy = shutil.copytree(unbroken.run.path, tmp_path / "copy")
    for step in (9, 10):
        shutil.move(copy / "checkpoints" / str(step), tmp_path / str(step))
    with pytest.raises(UserError, match="holds no checkpoint yet"):
        load(copy)
    shutil.move(tmp_path / "9", copy / "checkpoints" / "6")  # as if it had been made in the first stage
    # Its integrity file knows better; this test does not want to.
    assert load(copy, trust_checkpoint=True).config.layer_kinds[0].rope_theta == 100.0


def test_of_several_devices_the_first_is_used(text_model):
    assert jax.local_device_count() > 1
    used = {device for value in text_model.params.values() for device in value.sharding.device_set}
    assert used == {jax.local_devices()[0]}


def test_streaming_and_completing_give_the_same_text(text_model):
    for prompt in ("river", "", "雨"):
        streamed = "".join(text_model.stream(prompt, 12, Sampling(), 0))
        assert [streamed] == text_model.complete([prompt], 12, Sampling(), 0)
        assert streamed


def test_texts_of_different_lengths_are_continued_together(text_model):
    prompts = ["river", "one two the a light stone"]
    together = text_model.complete(prompts, 8, Sampling(), 0)
    assert together == [text_model.complete([prompt], 8, Sampling(), 0)[0] for prompt in prompts]


def test_a_directory_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="neither a run nor a directory of Hugging Face files"):
        load(tmp_path)


def test_a_run_without_a_checkpoint_is_refused(unbroken, tmp_path):
    shutil.copy(unbroken.run.config_file, tmp_path)
    with pytest.raises(UserError, match="holds no checkpoint yet"):
        load(tmp_path)
    assert not (tmp_path / "checkpoints").exists()


def test_damaged_checkpoints_are_refused(unbroken, tmp_path):
    copy = shutil.copytree(unbroken.run.path, tmp_path / "copy")
    for manifest in (copy / "checkpoints").glob("*/state/manifest.ocdbt"):
        manifest.unlink()
    with pytest.raises(UserError, match=r"checkpoint.* can(not)? be read"):
        load(copy)
