"""A run that cannot go on says what it has found."""

from dataclasses import replace

import numpy as np
import pytest

from rnope_jax.config import OptimizerConfig
from rnope_jax.data import Mixture
from rnope_jax.training import TrainingError
from tests.training.runs import metrics, run_config, train


@pytest.fixture
def config(corpus, tmp_path):
    return run_config(corpus, tmp_path / "run", optimizer=OptimizerConfig(max_skipped=3))


@pytest.fixture
def poison(monkeypatch):
    """Batches of the steps in `steps` (from 0) get a weight that is not finite."""
    steps: set[int] = set()

    sound = Mixture.batch

    def poisoned(self, step, wanted=None):
        batch = sound(self, step, wanted)
        bad = step in steps and self.stage.name == "first"
        return batch._replace(loss_mask=batch.loss_mask * np.nan) if bad else batch

    monkeypatch.setattr(Mixture, "batch", poisoned)
    return steps


def test_too_many_skipped_steps_end_the_run_with_tensors_and_documents(config, poison, monkeypatch):
    poison |= {2, 3, 4, 5}
    seen = []
    documents_of = Mixture.documents
    monkeypatch.setattr(
        Mixture, "documents", lambda self, step: seen.append((self, step, documents_of(self, step))) or seen[-1][2]
    )
    with pytest.raises(TrainingError) as caught:
        train(config)
    message = str(caught.value)
    assert "step 5 skipped (3 in a row): gradient not finite in embedding" in message
    assert "optimizer.max_skipped = 3" in message
    assert "the checkpoints [3] are sound" in message
    ((mixture, step, documents),) = seen
    assert (mixture.stage.name, step) == ("first", 4)
    assert all(name in message for name in documents[:5])
    # What was reported up to there is in the file.
    assert [line["skipped"] for line in metrics(config.directory) if "loss" in line] == [0, 0, 1, 2]


def test_fewer_are_told_and_passed_over(config, poison):
    poison |= {1, 3, 4}
    result = train(config)
    told = [line for line in result.said if "skipped" in line]
    assert [line.split(":")[0] for line in told] == [
        "step 2 skipped (1 in a row)",
        "step 4 skipped (1 in a row)",
        "step 5 skipped (2 in a row)",
    ]
    assert int(result.state.step) == 10
    assert np.isfinite(result.state.params["embedding"]).all()


def test_a_skipped_step_is_counted_across_a_resume(config, poison):
    """A run that dies and comes back must not pass the limit unseen."""
    poison |= {1, 2, 3}
    train(config, stop_at=2)
    with pytest.raises(TrainingError, match=r"step 4 skipped \(3 in a row\)"):
        train(replace(config))
