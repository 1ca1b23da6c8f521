"""Numbers of many runs, by variant, seed, quantity and length."""

import math

import pytest

from rnope_jax.errors import UserError
from rnope_jax.evaluation.study.findings import Run, read
from tests.evaluation.study.results import write_run


@pytest.fixture
def findings(tmp_path):
    many = {"needle": 40.0, "needle_deep": 20.0, "easy": 90.0, "hard": {256: 70.0, 1024: 10.0}}
    runs = [
        write_run(tmp_path, "rope", 0, loss={256: 2.0, 1024: 3.0}, late=2.5, **many),
        write_run(tmp_path, "rope", 4, loss={256: 2.2, 1024: 3.0}, late=2.5),
        write_run(tmp_path, "rnope_10k", 4, nope_needle=0.3, rope_needle=0.1, nope_entropy=5.0, rope_relative=0.5),
    ]
    return read(runs)


def test_every_number_is_found_under_its_name(findings):
    assert (findings.variants, findings.seeds, findings.lengths) == (["rope", "rnope_10k"], [0, 4], [256, 1024])
    wanted = {
        ("rope", 0, "loss", 256): 2.0,
        ("rope", 0, "loss", 1024): 3.0,
        ("rope", 0, "late loss", 1024): 2.5,
        ("rope", 0, "needle", 256): 30.0,
        ("rope", 0, "ruler", 256): 80.0,
        ("rope", 0, "ruler", 1024): 50.0,
        ("rnope_10k", 4, "nope mass needle", 1024): 0.3,
        ("rnope_10k", 4, "rope mass needle", 256): 0.1,
        ("rnope_10k", 4, "nope entropy", 256): 5.0,
        ("rnope_10k", 4, "rope relative entropy", 256): 0.5,
    }
    for where, value in wanted.items():
        assert findings.value(*where) == pytest.approx(value), where
    assert findings.value("rope", 0, "nope mass needle", 256) is None  # there are no such layers
    assert findings.value("rope", 0, "loss", 512) is None
    assert findings.value("rope", 9, "loss", 256) is None
    assert findings.of("rope")[0].needles == {256: (40.0, 20.0), 1024: (40.0, 20.0)}
    assert findings.of("rope")[0].positions == ((2.0, 5.0), (6.5, 2.0))


def test_means_are_over_seeds_with_their_spread(findings):
    mean, spread = findings.mean("rope", "loss", 256)
    assert (mean, spread) == (pytest.approx(2.1), pytest.approx(math.sqrt(0.02)))
    alone, unknown = findings.mean("rnope_10k", "nope entropy", 256)
    assert alone == 5.0
    assert math.isnan(unknown)
    assert findings.mean("rope", "nope entropy", 256) is None


def test_runs_that_were_measured_otherwise_are_not_compared(tmp_path):
    runs = [write_run(tmp_path, "rope", 0), write_run(tmp_path, "rope", 1, settings={"samples": 3})]
    with pytest.raises(UserError, match="rope-1: was measured with other settings"):
        read(runs)
    with pytest.raises(UserError, match=r"loss_by_position\.json: cannot be read as results"):
        read([Run("rope", 0, tmp_path / "nowhere")])
