"""Cache and speed beside full attention: what is predicted, and what is measured."""

import json

import jax.numpy as jnp
import pytest

from rnope_jax.errors import UserError
from rnope_jax.evaluation import efficiency, efficiency_report
from rnope_jax.layers import rnope_swa
from rnope_jax.model import bind, empty_cache
from tests.helpers import random_params, random_tokens, tiny_model

SHORT = 96


def published(**changes):
    return tiny_model(pattern=rnope_swa(4096), num_layers=8, **changes)


@pytest.fixture(scope="module")
def measured():
    config = tiny_model(pattern=rnope_swa(16, 100.0, ratio=1), num_layers=3)
    said = []
    return config, efficiency.measure(config, (24, SHORT), said.append), said


@pytest.mark.parametrize(("context", "share"), [(4096, 1.0), (8192, 0.625), (32_768, 0.34375), (262_144, 0.2617)])
def test_the_published_window_keeps_the_predicted_share(context, share):
    cost = efficiency.predict(published(), context)
    assert cost.cache_share == pytest.approx(share, abs=1e-4)
    assert cost.cache_bytes == cost.full_cache_bytes * cost.cache_share
    assert (cost.prefill_share < 1) == (cost.read_share < 1) == (share < 1)


def test_weights_are_read_whatever_the_window():
    # Four times the weights: the cache matters less.
    narrow, wide = (efficiency.predict(published(d_ff=width), 32_768).read_share for width in (24, 9600))
    assert 0.344 < narrow < wide < 1


def test_what_is_measured_are_the_caches_that_decoding_keeps(measured):
    config, costs, said = measured
    assert [cost.context for cost in costs] == [24, SHORT]
    for cost in costs:
        assert cost.measured.cache_bytes == cost.cache_bytes
        assert cost.full_measured.cache_bytes == cost.full_cache_bytes
        assert cost.measured_cache_share == pytest.approx(cost.cache_share)
        assert cost.measured.seconds_per_token > 0
        assert cost.measured_time_share > 0
    # Two window layers and a full one, in order: window, full, window.
    values = 2 * config.num_kv_heads * config.head_dim * 4
    assert costs[1].cache_bytes == (16 + SHORT + 16) * values
    assert len(said) == 2


def test_the_caches_are_as_full_as_they_would_be(measured):
    config = measured[0]
    tokens = random_tokens(config, 1, 40)
    _, cache = bind(config, random_params(config)).extend(tokens, jnp.arange(40)[None], empty_cache(config, 1, SHORT))
    filled = efficiency._filled(empty_cache(config, 1, SHORT), 40)
    for ours, theirs in zip((*filled[0], *filled[1]), (*cache[0], *cache[1]), strict=True):
        assert (ours.positions == theirs.positions).all()


def test_tables_and_figures_show_what_there_is(measured):
    config, costs, _ = measured
    predicted = [efficiency.predict(config, cost.context) for cost in costs]
    assert len(efficiency_report.table(predicted).columns) == 6
    shown = efficiency_report.table(costs)
    assert list(shown.columns[3].cells) == [f"{cost.cache_share:.3f}" for cost in costs]
    assert list(shown.columns[9].cells) == [f"{cost.measured_time_share:.3f}" for cost in costs]
    pictures = [efficiency_report.figure(found, "tiny") for found in (predicted, costs)]
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)
    kept = json.loads(json.dumps(efficiency_report.to_dict(costs, config)))
    assert kept["contexts"][1]["measured"]["cache_bytes"] == costs[1].cache_bytes


def test_a_context_without_room_for_tokens_is_refused():
    with pytest.raises(UserError, match=r"contexts = \[16\]: must be above 16"):
        efficiency.measure(tiny_model(), (16,))
