"""Runs that several tests look at."""

import pytest

# Imports are within the fixtures: pytest reads this file before it sets its own hook for errors in
# threads, and the one of rnope_jax.checkpoint must come after it.


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    from tests.data.corpora import write_corpus

    return write_corpus(tmp_path_factory.mktemp("text") / "corpus", count=24)


@pytest.fixture(scope="session")
def unbroken(corpus, tmp_path_factory):
    """A run that nothing interrupted. Only to be read."""
    from tests.training.runs import run_config, train

    return train(run_config(corpus, tmp_path_factory.mktemp("runs") / "unbroken"))
