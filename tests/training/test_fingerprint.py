"""A run does not go on with other data than those it began with, unless it is told to."""

import json
import shutil
from dataclasses import replace

import pytest

from rnope_jax.config import CheckpointConfig
from rnope_jax.data.fingerprint import check_same
from rnope_jax.errors import UserError
from tests.training.runs import run_config, train, tree_hash


@pytest.fixture
def stopped(corpus, tmp_path):
    """A run that was stopped, and whose tokens are gone; its text has changed meanwhile."""
    moved = shutil.copytree(corpus, tmp_path / "copy")
    config = run_config(moved, tmp_path / "run")
    train(config, stop_at=4)
    shutil.rmtree(config.directory / "data")
    return config, moved


def test_the_same_text_gives_the_same_fingerprint(stopped, unbroken):
    config, _ = stopped
    result = train(config)
    assert int(result.state.step) == 10
    assert result.trainer.corpus.fingerprint["stages"] == unbroken.trainer.corpus.fingerprint["stages"]
    assert not [line for line in result.said if "trained on" in line]


def test_changed_text_ends_the_command_with_what_has_changed(stopped):
    config, moved = stopped
    (moved / "grown.txt").write_text("the river and the stone\n")
    before = tree_hash(config.directory / "checkpoints")
    with pytest.raises(UserError) as caught:
        train(config)
    message = str(caught.value)
    assert "the data are not those that checkpoint 5 was trained on:" in message or "checkpoint 4" in message
    assert "stages.first.first.documents: 18 then, 19 now" in message
    assert "stages.first.first.files.tokens.bin: " in message
    assert "--checkpoint.accept-changed-data True" in message
    assert tree_hash(config.directory / "checkpoints") == before


def test_changed_text_can_be_accepted_once_and_for_all(stopped):
    config, moved = stopped
    (moved / "grown.txt").write_text("the river and the stone\n")
    accepting = replace(config, checkpoint=CheckpointConfig(every=3, keep=2, accept_changed_data=True))
    result = train(accepting, stop_at=6)
    assert any("stages.first.first.documents: 18 then, 19 now\n" in line for line in result.said)
    assert any("they are accepted" in line for line in result.said)
    # Its new checkpoints are of the new data.
    again = train(config)
    assert int(again.state.step) == 10
    assert not [line for line in again.said if "trained on" in line]


def test_another_tokenizer_is_other_data(stopped):
    config, _ = stopped
    file = config.directory / "tokenizer" / "tokenizer.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "normalizer": {"type": "Lowercase"}}))
    with pytest.raises(UserError, match=r"\n  tokenizer: [0-9a-f]{12} then, [0-9a-f]{12} now"):
        train(config)


def test_a_checkpoint_without_a_fingerprint_is_used_and_that_is_said():
    said: list[str] = []
    check_same(None, {"tokenizer": "a"}, 7, accept=False, report=said.append)
    assert said == ["checkpoint 7 does not say what it was trained on; whether that has changed is not known"]


def test_long_lists_of_changes_are_cut():
    old = {"files": {str(i): "a" for i in range(20)}, "documents": 1}
    new = {"files": {str(i): "b" for i in range(20)}, "documents": 1_000_000}
    with pytest.raises(UserError) as caught:
        check_same(json.dumps(old), new, 7, accept=False, report=print)
    lines = str(caught.value).splitlines()
    assert lines[1] == "  documents: 1 then, 1,000,000 now"
    assert lines[-2] == "  and 15 more"
