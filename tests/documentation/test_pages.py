"""Figures are as the code draws them, configurations can be loaded, files exist, and the site has no warnings."""

import importlib.util
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from rnope_jax import attention
from rnope_jax.attention import reference
from rnope_jax.cli import config_file
from rnope_jax.layers import LayerKind
from tests.documentation.commands import PAGES
from tests.end_to_end.commands import ROOT


@pytest.fixture(scope="module")
def draw():
    spec = importlib.util.spec_from_file_location("draw", ROOT / "docs" / "draw.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_figures_are_as_the_code_draws_them(draw):
    for name, drawn in draw.figures().items():
        assert (draw.FOLDER / name).read_text() == drawn, f"{name}: run python docs/draw.py"
    assert {path.name for path in draw.FOLDER.iterdir()} >= set(draw.figures())


@pytest.mark.parametrize("window", [6, None])
def test_pictures_of_masks_show_what_attention_lets_through(draw, window):
    documents = draw.PACKED
    shown = draw.mask(window, documents) > 0
    assert shown.sum() == sum(LayerKind(None, window).attention_pairs(length) for length in documents)
    # Of one-hot values, the definition gives back the weights.
    tokens, values = sum(documents), np.eye(sum(documents), dtype=np.float32)[None, :, None]
    segments = np.repeat(np.arange(1, 4), documents)[None]
    queries = np.zeros((1, tokens, 1, tokens), np.float32)
    spec = attention.AttentionSpec(scale=1.0, window=window)
    weights = reference.attend(queries, queries, values, spec, segment_ids=segments)
    assert np.array_equal(np.asarray(weights)[0, :, 0] > 0, shown)


CONFIGURATIONS = [
    (page.name, block)
    for page in PAGES
    for block in re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    if "def config()" in block
]


@pytest.mark.parametrize(("page", "block"), CONFIGURATIONS, ids=[page for page, _ in CONFIGURATIONS])
def test_configurations_of_the_pages_can_be_loaded(page, block, tmp_path):
    for file in (ROOT / "configs").glob("*.py"):
        (tmp_path / file.name).write_text(file.read_text())
    (tmp_path / "mine.py").write_text(block)
    assert config_file.load(str(tmp_path / "mine.py")).stages


def test_programs_that_pages_name_exist():
    """Python files in backticks, of a folder that the project has."""
    for page in PAGES:
        for folder, rest in re.findall(r"`([\w-]+)/([\w./-]+\.py)", page.read_text()):
            places = [place for place in (ROOT / folder, ROOT / "rnope_jax" / folder) if place.is_dir()]
            found = any((place / rest).exists() for place in places)
            assert found or not places or (folder, rest) == ("configs", "mine.py"), f"{page.name}: {folder}/{rest}"


def rows(text, heading):
    """The cells of the first table after a heading, without its head."""
    table = re.search(r"(?:^\|.*\n)+", text[text.index(heading) :], re.MULTILINE)[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_what_the_comparison_says_is_here_is_shown_by_tests():
    here = {
        row[0] for row in rows((ROOT / "README.md").read_text(), "## Beside") if row[1] not in ("-", "one", "not yet")
    }
    shown = {row[0]: row[2] for row in rows((ROOT / "docs" / "comparison.md").read_text(), "# Beside")}
    assert here == set(shown)
    written = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    for entry, tests in shown.items():
        names = re.findall(r"`(test_\w+)`", tests)
        assert names, entry
        assert all(f"def {name}(" in written for name in names), entry


def test_the_walks_name_every_step_once_and_in_order():
    """The walk of a batch and that of a parameter lead from file to file, none of which comes twice."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    for heading in ("## The walk of a batch", "## The walk of a parameter"):
        part = text[text.index(heading) :].split("\n## ")[0].removeprefix("## ")
        files = re.findall(r"^\d+\. `([\w/]+\.py)`", part, re.MULTILINE)
        assert len(files) >= 8
        assert len(set(files)) == len(files)
        assert all((ROOT / "rnope_jax" / name).exists() for name in files), files


def test_the_site_is_built_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=quiet)
    assert built.returncode == 0, built.stdout + built.stderr
    assert (tmp_path / "first_run" / "index.html").is_file()
    assert (tmp_path / "figures" / "masks.svg").is_file()
