"""Checkpoints of small states."""

import shutil

import pytest

# Imports are within the fixtures: pytest reads this file before it sets its own hook for errors in
# threads, and the one of rnope_jax.checkpoint must come after it.


@pytest.fixture
def opened(tmp_path):
    """Opens the checkpoints; all are closed at the end."""
    from rnope_jax.checkpoint import Checkpoints
    from rnope_jax.config import CheckpointConfig

    made = []

    def open_(**settings) -> Checkpoints:
        made.append(Checkpoints(tmp_path / "checkpoints", CheckpointConfig(**settings)))
        return made[-1]

    yield open_
    for checkpoints in made:
        checkpoints.close()


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    """A directory with the checkpoints 1, 2 and 3. Only to be read."""
    from rnope_jax.checkpoint import Checkpoints
    from rnope_jax.config import CheckpointConfig
    from tests.checkpoint.states import ABOUT, state

    directory = tmp_path_factory.mktemp("saved") / "checkpoints"
    checkpoints = Checkpoints(directory, CheckpointConfig())
    for step in (1, 2, 3):
        checkpoints.save(step, state(step), ABOUT)
    checkpoints.close()
    return directory


@pytest.fixture
def directory(saved, tmp_path):
    """A copy of `saved`, where `opened` finds it."""
    return shutil.copytree(saved, tmp_path / "checkpoints")
