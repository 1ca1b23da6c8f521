"""Averages over layers, tables and figures, from masses that are known."""

import json
from dataclasses import replace

import numpy as np
import pytest

from rnope_jax.evaluation.analysis.figures import figures, head_map
from rnope_jax.evaluation.analysis.measure import Measured, bin_edges
from rnope_jax.evaluation.analysis.results import Analysis, from_dict, summarize, to_dict
from rnope_jax.evaluation.analysis.tables import tables
from rnope_jax.layers import kinds, nope, rnope, rnope_swa

LENGTH = 400


def measured(pattern, length=LENGTH, depth=0.5, seed=0):
    """Three layers of two heads, at random."""
    rng = np.random.default_rng(seed)
    mass = rng.dirichlet(np.ones(4), (3, 2))
    mass[0, 1] = (0.1, 0.8, 0.1, 0.0)
    mass[2] = (0.5, 0.0, 0.25, 0.25)
    entropy = rng.uniform(1, 5, (3, 2))
    curve = rng.uniform(0, 1, (3, len(bin_edges(length)) - 1))
    return Measured(length, depth, kinds(pattern, 3), mass, entropy, entropy / 6, curve, even=0.05)


def analysis(name, pattern, lengths=(LENGTH, 800), depths=(0.5,), per_head=True):
    found = tuple(
        summarize(measured(pattern, length, depth, seed), per_head=per_head)
        for seed, (length, depth) in enumerate((length, depth) for length in lengths for depth in depths)
    )
    return Analysis(name, 7, tuple(map(str, kinds(pattern, 3))), 200, found)


HYBRID = rnope_swa(16, 100.0, ratio=2)  # the third layer has no positions


def test_averages_are_taken_over_all_layers_and_over_each_kind():
    source = measured(HYBRID)
    groups = summarize(source, per_head=False).groups
    assert {name: average.layers for name, average in groups.items()} == {"all": 3, "nope": 1, "rope": 2}
    for name, layers in {"all": [0, 1, 2], "nope": [2], "rope": [0, 1]}.items():
        assert list(groups[name].mass.values()) == pytest.approx(source.mass[layers].mean((0, 1)))
        assert sum(groups[name].mass.values()) == pytest.approx(1)
        assert groups[name].entropy_bits == pytest.approx(source.entropy[layers].mean())
        assert groups[name].curve == pytest.approx(source.curve[layers].mean(0))
    assert set(summarize(measured(nope()), per_head=False).groups) == {"all", "nope"}
    # Rotary positions tell the kinds apart, not windows.
    whole = summarize(measured(rnope(100.0, ratio=2)), per_head=False).groups
    assert {name: average.layers for name, average in whole.items()} == {"all": 3, "nope": 1, "rope": 2}


def test_retrieval_heads_are_those_that_give_the_fact_more_than_its_share():
    source = measured(HYBRID)
    heads = summarize(source, per_head=False).retrieval_heads
    assert (heads[0].layer, heads[0].head, heads[0].needle) == (0, 1, 0.8)
    assert heads[0].kind == "window 16 + RoPE 100"
    needles = [head.needle for head in heads]
    assert needles == sorted(needles, reverse=True)
    assert len(heads) == (source.mass[..., 1] > 0.05).sum() < 6


def test_tables_are_laid_out_as_those_of_the_paper():
    models = [analysis("hybrid", HYBRID), analysis("none", nope())]
    third, fourth, ninth, heads = tables(models, 0.5)
    headers = [[column.header for column in table.columns] for table in (third, fourth, ninth)]
    assert headers[0] == ["context", "model", "begin", "needle", "context", "qc"]
    parts = ["begin", "needle", "context", "qc"]
    assert headers[1] == ["context", "model", *(f"{kind}\n{part}" for kind in ("NoPE", "RoPE") for part in parts)]
    assert headers[2] == ["model", "layers", "400", "800"]
    cells = [list(column.cells) for column in third.columns]
    assert cells[0] == ["400", "", "800", ""]
    assert cells[1] == ["hybrid", "none"] * 2
    assert cells[3][0] == f"{models[0].findings[0].groups['all'].mass['needle']:.4f}"
    by_kind = [list(column.cells) for column in fourth.columns]
    assert by_kind[3][1] == f"{models[1].findings[0].groups['nope'].mass['needle']:.4f}"
    assert [column[1] for column in by_kind[6:]] == ["-"] * 4  # no RoPE layers there
    assert list(ninth.columns[1].cells) == ["all", "NoPE", "RoPE", "all"]
    average = models[0].findings[1].groups["rope"]
    assert list(ninth.columns[3].cells)[2] == f"{average.entropy_bits:.2f} ({average.relative_entropy:.2f})"
    assert heads.row_count > 2


def test_figures_are_drawn_of_what_there_is():
    def is_png(data):
        return data.startswith(b"\x89PNG\r\n\x1a\n") and len(data) > 5000

    names = ["attention-by-length.png", "attention-by-kind.png", "attention-lengths-together.png"]
    plain = figures([analysis("none", nope(), per_head=False)], 0.5)
    assert list(plain) == names
    both = [analysis(name, pattern, depths=(0.5, 0.1)) for name, pattern in {"a": HYBRID, "b": nope()}.items()]
    drawn = figures(both, 0.5)
    assert list(drawn) == [*names, "attention-needle.png", "attention-heads.png"]
    assert all(map(is_png, [*plain.values(), *drawn.values()]))
    # What is drawn depends on what was found.
    other = [replace(both[0], findings=both[0].findings[::-1]), both[1]]
    assert figures(other, 0.5) == drawn
    assert figures(both, 0.1)["attention-by-length.png"] != drawn["attention-by-length.png"]


@pytest.mark.parametrize(("part", "seen"), [(0, False), (1, True)])
def test_the_map_of_heads_shows_the_mass_on_the_fact(part, seen):
    found = analysis("hybrid", HYBRID, lengths=(LENGTH,)).findings[0]
    mass = np.array(found.heads["mass"])
    other = mass.copy()
    other[0, 0, part] += 0.5
    model = analysis("hybrid", HYBRID)
    drawn = [head_map([model], LENGTH, [values.tolist()]) for values in (mass, other)]
    assert (drawn[0] != drawn[1]) is seen


def test_everything_is_kept_as_json():
    kept = json.loads(json.dumps(to_dict([analysis("hybrid", HYBRID)], {"seed": 3})))
    assert kept["settings"] == {"seed": 3}
    found = kept["models"][0]["findings"][0]
    assert found["groups"]["nope"]["mass"].keys() == {"begin", "needle", "context", "qc"}
    assert np.shape(found["heads"]["mass"]) == (3, 2, 4)
    assert len(found["groups"]["all"]["curve"]) == len(found["edges"]) - 1
    assert from_dict(kept["models"][0]) == analysis("hybrid", HYBRID)
