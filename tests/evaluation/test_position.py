"""Loss by position."""

import json
import math
import shutil
from itertools import pairwise

import jax
import numpy as np
import pytest

from rnope_jax.errors import UserError
from rnope_jax.evaluation import position
from rnope_jax.evaluation.position import PositionLoss
from rnope_jax.inference import load
from rnope_jax.model import bind
from tests.interop.models import make_run, model


@pytest.fixture(scope="module")
def text_model(tmp_path_factory):
    return load(make_run(tmp_path_factory.mktemp("position") / "run", model(num_layers=2)).path)


def rows_of(text_model, count=4, length=48):
    texts = ["the river and the stone\n" * 9, "def main(there):\n    return 42\n" * 40]
    return position.rows_of(text_model, texts, length, count)


def measure(text_model, rows, file, report=lambda _: None):
    return position.measure(text_model, rows, (12, 48), file, batch_tokens=128, report=report)


def test_it_is_the_mean_over_rows_of_a_direct_computation(text_model, tmp_path):
    rows = np.array(rows_of(text_model))
    found = measure(text_model, rows.tolist(), tmp_path / "losses.jsonl")
    call = jax.jit(lambda params, tokens: bind(text_model.config, params)(tokens))
    logits = np.asarray(call(text_model.params, rows[:, :-1]), np.float64)
    chosen = np.take_along_axis(logits, rows[:, 1:, None], axis=-1)[..., 0]
    direct = (np.log(np.exp(logits).sum(axis=-1)) - chosen).mean(axis=0)
    np.testing.assert_allclose(found.losses, direct, atol=1e-4)
    assert found.by_length(12) == pytest.approx((direct[:12].mean(), direct[9:12].mean()), abs=1e-4)
    assert found.by_length(48) == pytest.approx((direct.mean(), direct[36:].mean()), abs=1e-4)
    assert found.to_dict()["by_length"][1]["loss_last_quarter"] == pytest.approx(direct[36:].mean(), abs=1e-4)


def test_what_follows_has_no_influence_on_the_loss_of_a_length(text_model, tmp_path):
    rows = np.array(rows_of(text_model))
    whole = measure(text_model, rows.tolist(), tmp_path / "whole.jsonl")
    rows[:, 13:] = rows[:, 13:][:, ::-1]
    other = measure(text_model, rows.tolist(), tmp_path / "other.jsonl")
    assert other.by_length(12) == pytest.approx(whole.by_length(12), abs=2e-5)
    assert abs(other.by_length(48)[0] - whole.by_length(48)[0]) > 1e-3


def test_bins_share_out_all_positions():
    losses = np.random.default_rng(0).random(300)
    bins = PositionLoss(losses, (300,), 1).bins()
    assert bins[0][0] == 1
    assert bins[-1][1] == 300
    assert all(after[0] == before[1] + 1 for before, after in pairwise(bins))
    assert all(1 <= math.ceil((last - first + 1) / max(1, first / 4)) <= 4 for first, last, _ in bins)
    weights = [last - first + 1 for first, last, _ in bins]
    assert np.average([loss for *_, loss in bins], weights=weights) == pytest.approx(losses.mean())


def test_rows_begin_with_the_start_token_and_hold_the_longest_text_first(text_model):
    tokenizer = text_model.tokenizer
    rows = rows_of(text_model, count=100)
    assert {len(row) for row in rows} == {49}
    assert {row[0] for row in rows} == {tokenizer.bos_id}
    text = "".join(tokenizer.decode(row[1:]) for row in rows)
    whole = "def main(there):\n    return 42\n" * 40 + "the river and the stone\n" * 9
    assert whole.startswith(text)
    assert len(whole) - len(text) < 200
    assert rows_of(text_model, count=2) == rows[:2]
    with pytest.raises(UserError, match="--lengths 100000: all texts together have only"):
        rows_of(text_model, length=100_000)


def test_it_goes_on_where_it_was_stopped(text_model, tmp_path):
    rows = rows_of(text_model)
    whole = tmp_path / "whole.jsonl"
    expected = measure(text_model, rows, whole)
    assert [json.loads(line)["index"] for line in whole.read_text().splitlines()] == [0, 1, 2, 3]
    lines = whole.read_text().splitlines(keepends=True)
    torn = tmp_path / "torn.jsonl"
    torn.write_text(lines[3] + lines[1] + lines[0][:100])  # killed while it wrote the third
    calls = []
    again = measure(text_model, rows, torn, calls.append)
    np.testing.assert_array_equal(again.losses, expected.losses)
    assert torn.read_bytes() == whole.read_bytes()
    done = tmp_path / "done.jsonl"
    shutil.copy(whole, done)
    measure(text_model, rows, done, calls.append)
    assert 1 <= len(calls) <= 2  # the last call computed nothing


def test_losses_of_another_text_are_not_taken(text_model, tmp_path):
    rows = rows_of(text_model)
    measure(text_model, rows, tmp_path / "losses.jsonl")
    before = (tmp_path / "losses.jsonl").read_bytes()
    with pytest.raises(UserError, match="holds the losses of another text"):
        measure(text_model, rows[::-1], tmp_path / "losses.jsonl")
    assert (tmp_path / "losses.jsonl").read_bytes() == before
