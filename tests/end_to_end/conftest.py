"""A corpus, and one run that nothing interrupted."""

import pytest


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    from tests.data.corpora import write_corpus

    return write_corpus(tmp_path_factory.mktemp("end_to_end") / "corpus", count=24)


@pytest.fixture(scope="session")
def compiled(tmp_path_factory):
    """Compiled functions, for this session only: a killed process may leave half of one."""
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="session")
def finished(text, compiled, tmp_path_factory):
    """Run directory and ending of an unbroken run, which must not load PyTorch. Only to be read."""
    from tests.end_to_end.commands import TINY, finish, start

    run_dir, packages = tmp_path_factory.mktemp("runs") / "finished", tmp_path_factory.mktemp("packages")
    (packages / "torch.py").write_text("raise SystemExit('PyTorch was loaded: it takes seconds, and memory')\n")
    command = ("train.py", TINY, "--data.corpus", text, "--run-dir", run_dir)
    return run_dir, finish(start(compiled, *command, packages=packages))
