"""`rnope describe` tells what a configuration means."""

import re

import pytest

from rnope_jax import flops
from rnope_jax.cli.config_file import load
from tests.end_to_end.commands import ROOT, TINY, rnope_here


def test_the_numbers_of_a_configuration(capsys):
    config = load(str(TINY))
    ended = rnope_here(capsys, "describe", TINY)
    assert (ended.code, ended.err) == (0, "")
    assert f"{flops.parameters(config.model).total:,} parameters" in ended.out
    assert "window 5 + RoPE 100" in ended.out
    assert "full + NoPE" in ended.out
    assert "first" in ended.out
    assert "second" in ended.out
    assert re.search(r"second .* 1k ", ended.out)  # the base of the second stage


SHIPPED = [
    f"{file.relative_to(ROOT)}:{name}"
    for file in sorted((ROOT / "configs").glob("*.py"))
    for name in re.findall(r"^def ([a-z]\w*)\(\) -> Config:", file.read_text(), re.MULTILINE)
]


@pytest.mark.parametrize("spec", SHIPPED)
def test_every_shipped_configuration_can_be_described(capsys, monkeypatch, spec):
    monkeypatch.chdir(ROOT)
    ended = rnope_here(capsys, "describe", spec)
    assert (ended.code, ended.err) == (0, "")
    assert "parameters" in ended.out


def test_the_quickstart_is_shipped():
    assert "configs/quickstart.py:config" in SHIPPED


def test_a_missing_file_is_refused(capsys):
    ended = rnope_here(capsys, "describe", "nowhere.py")
    wanted = "configuration file nowhere.py does not exist; give FILE.py, FILE.py:FUNCTION or a run directory"
    assert (ended.code, ended.err) == (2, f"error: {wanted}\n")


def test_caches_are_shown_beside_full_attention_and_kept_where_asked_for(capsys, tmp_path):
    ended = rnope_here(
        capsys, "describe", ROOT / "configs" / "command_r7b.py", "--contexts", 8192, 32768, "--out", tmp_path
    )
    assert ended.code == 0
    assert re.search(r"8,192 .* 640\.00 .* 1,024\.00 .* 0\.625 ", ended.out)
    assert re.search(r"32,768 .* 0\.344 ", ended.out)
    assert (tmp_path / "figures" / "cache.png").is_file()
    assert (tmp_path / "cache.json").is_file()


def test_caches_are_measured_where_asked_for(capsys):
    ended = rnope_here(capsys, "describe", TINY, "--contexts", 32, "--measure", "--dtype", "bfloat16")
    assert ended.code == 0
    assert "caches in bfloat16" in ended.out
    assert "measured" in ended.out
    refused = rnope_here(capsys, "describe", TINY, "--contexts", 8)
    assert (refused.code, refused.err) == (2, "error: contexts = [8]: must be above 16 tokens\n")
