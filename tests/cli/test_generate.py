"""`rnope generate`."""

import pytest

from rnope_jax.cli.main import main
from rnope_jax.layers import rnope_swa
from tests.interop.models import make_run, model


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(
        tmp_path_factory.mktemp("generate") / "run", model(pattern=rnope_swa(5, 100.0), num_layers=3, head_dim=64)
    )


def call(capsys, *arguments: str, code: int | None = 0):
    with pytest.raises(SystemExit) as ended:
        main(["generate", *arguments])
    assert ended.value.code == code
    return capsys.readouterr()


def test_statistics_are_reported_beside_the_text(run, capsys):
    plain = call(capsys, str(run.path), "the river", "--max-tokens", "20", "--temperature", "0")
    options = ["--max-tokens", "20", "--temperature", "0", "--stats"]
    measured = call(capsys, str(run.path), "the river", *options, "--dtype", "float32")
    assert plain.out == measured.out
    assert plain.out.startswith("the river")
    assert [line.split()[0] for line in measured.err.splitlines()] == ["compiled", "first", "then", "cache"]
    assert "tokens/s" in measured.err
    narrow = call(capsys, str(run.path), "the river", *options, "--dtype", "bfloat16")
    sizes = [float(found.err.split("need ")[1].split()[0]) for found in (measured, narrow)]
    assert sizes[1] == pytest.approx(sizes[0] / 2, abs=0.01)
    assert "full attention in every layer would need" in measured.err


def test_several_prompts_are_continued_together(run, capsys):
    texts = ["the river", "a"]
    options = ["--max-tokens", "9", "--temperature", "0"]
    together = call(capsys, str(run.path), *texts, *options).out
    for text in texts:
        alone = call(capsys, str(run.path), text, *options).out
        assert f"--- {text!r} goes on:\n{alone}" in together


def test_a_prompt_must_be_given(run, capsys):
    assert "there is no prompt" in call(capsys, str(run.path), code=2).err
