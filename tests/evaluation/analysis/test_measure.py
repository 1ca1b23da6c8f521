"""Attention of whole models to probes, from their caches, against all weights in float64."""

import random
from itertools import pairwise

import jax.numpy as jnp
import numpy as np
import pytest

from rnope_jax.evaluation.analysis.measure import bin_edges, measure
from rnope_jax.evaluation.analysis.probe import QC, SEGMENTS
from rnope_jax.inference import arrange
from rnope_jax.layers import LayerKind, LogScaling
from tests.evaluation.analysis.texts import haystack
from tests.helpers import assert_close, random_params, tiny_model
from tests.interop.models import VOCAB, small_tokenizer
from tests.model import definition

LENGTH = 290

#: Every property of layers, twice around and a remainder.
PATTERN = (LayerKind(100.0, 7, qk_norm=True), LayerKind(None, None, log_scaling=LogScaling(8.0)))


@pytest.fixture(scope="module")
def case():
    """A model, probes, what was measured, and all attention weights of each probe [layers, heads, S, S]."""
    config = tiny_model(pattern=PATTERN, num_layers=5, vocab_size=VOCAB)
    params = random_params(config, gain=2.0)
    batch = [haystack().probe(LENGTH, 0.5, random.Random(seed)) for seed in range(2)]
    return config, params, batch, measure(config, params, batch, 0.5), [weights(config, params, p) for p in batch]


def weights(config, params, probe):
    rows = definition.rows_of(config, definition.positions_from_zero(1, LENGTH))
    stream = definition.unrolled(config, params, jnp.asarray(probe.tokens)[None], rows)
    ones, found = np.ones((1, LENGTH)), []
    for layer, kind in enumerate(config.layer_kinds):
        own = definition.layer_params(config, params, layer)
        attended = {name: value for name, value in own.items() if name.startswith("attention.")}
        x = definition.layer_norm(np.asarray(stream[layer], np.float64), np.asarray(own["norm.scale"]), config.norm_eps)
        found.append(definition.attention_weights(config, kind, attended, x, rows.positions, ones)[0])
    return np.stack(found)


def averaged(case, function):
    """The mean over probes of what a function makes of the weights of question and completion."""
    _, _, batch, _, found = case
    return np.mean([function(w[:, :, p.segments == QC], p) for w, p in zip(found, batch, strict=True)], axis=0)


def test_mass_equals_the_dense_computation(case):
    def mass(weights, probe):
        return np.stack([weights[..., probe.segments == s].sum(-1).mean(2) for s in range(len(SEGMENTS))], -1)

    measured = case[3]
    assert_close(measured.mass, averaged(case, mass), 1e-5, floor=1.0)
    assert_close(measured.mass.sum(-1), np.ones((5, 4)), 1e-6)
    assert measured.mass[0, :, 1].max() == 0  # the fact is out of this window's reach


def test_an_even_share_is_that_of_the_tokens_of_the_fact(case):
    needles = [len(small_tokenizer().encode(f"{probe.fact.sentence}\n")) for probe in case[2]]
    assert case[3].even == pytest.approx(np.mean(needles) / LENGTH)


def test_entropy_equals_the_dense_computation(case):
    def entropy(weights, probe):
        return -(weights * np.log2(np.where(weights > 0, weights, 1))).sum(-1).mean(2)

    def relative(weights, probe):
        seen = np.arange(1, LENGTH + 1)[probe.segments == QC]
        seen = np.stack([np.minimum(seen, kind.window or LENGTH) for kind in case[0].layer_kinds])
        bits = -(weights * np.log2(np.where(weights > 0, weights, 1))).sum(-1)
        return (bits / np.log2(seen)[:, None]).mean(2)

    assert_close(case[3].entropy, averaged(case, entropy), 1e-5)
    assert_close(case[3].relative_entropy, averaged(case, relative), 1e-5)


def test_curves_equal_the_dense_computation_without_both_ends(case):
    edges = bin_edges(LENGTH)
    assert (edges[0], edges[-1]) == (10, LENGTH - int(0.03 * LENGTH))

    def curve(weights, _):
        mean = weights.mean((1, 2))
        return np.stack([mean[:, a:b].mean(1) for a, b in pairwise(edges)], -1)

    assert_close(case[3].curve, averaged(case, curve), 1e-5)


def test_layers_one_by_one_are_measured_as_those_in_a_scan(case):
    config, params, batch, measured, _ = case
    again = measure(*arrange(config, params), batch, 0.5)
    assert again.kinds == measured.kinds
    assert_close(again.mass, measured.mass, 1e-5)
