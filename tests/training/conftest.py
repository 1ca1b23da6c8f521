"""Runs that several tests look at."""

import pytest

from tests.data.corpora import write_corpus
from tests.training.runs import run_config, train


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("text") / "corpus", count=24)


@pytest.fixture(scope="session")
def unbroken(corpus, tmp_path_factory):
    """A run that nothing interrupted. Only to be read."""
    return train(run_config(corpus, tmp_path_factory.mktemp("runs") / "unbroken"))
