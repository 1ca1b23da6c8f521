"""A corpus."""

import pytest


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    from tests.data.corpora import write_corpus

    return write_corpus(tmp_path_factory.mktemp("cli") / "corpus", count=6)
