"""Counts of parameters, operations and cache bytes against brute force, XLA and published numbers."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnope_jax import flops
from rnope_jax.config import ModelConfig
from rnope_jax.layers import nope, qk_norm, rnope_swa
from rnope_jax.model import bind, describe
from tests.helpers import product_flops, tiny_model

#: Published shape of Command R7B 12-2024.
R7B = ModelConfig(
    **{"pattern": rnope_swa(), "num_layers": 32, "vocab_size": 256_000, "d_model": 4096, "d_ff": 14_336},
    **{"num_heads": 32, "num_kv_heads": 8, "head_dim": 128, "logit_scale": 0.25},
)
R7B_FULL = ModelConfig(**{**R7B.to_dict(), "pattern": nope()})


def brute_force(config, lengths):
    """Two FLOPs for each weight and token, and for each channel of each visible pair, twice."""
    infos = describe(config)
    weights = sum(math.prod(info.shape) for info in infos.values() if info.is_matrix)
    weights += math.prod(infos["embedding"].shape)
    pairs = 0
    for layer in range(config.num_layers):
        window = config.pattern[layer % len(config.pattern)].window
        for length in lengths:
            i, j = np.indices((length, length))
            pairs += int(((j <= i) & (i - j < (window or length))).sum())
    return 2 * weights * sum(lengths) + pairs * config.num_heads * 2 * (2 * config.head_dim)


@pytest.mark.parametrize("lengths", [[1], [40], [3, 17, 1, 30]])
@pytest.mark.parametrize("pattern", [rnope_swa(window=5), rnope_swa(window=99, ratio=1), qk_norm()])
def test_forward_flops_equal_a_count_by_hand(pattern, lengths):
    config = tiny_model(pattern=pattern, num_layers=7)
    assert flops.forward_flops(config, lengths) == brute_force(config, lengths)
    assert flops.forward_flops(config, iter(lengths)) == brute_force(config, lengths)
    assert flops.training_flops(config, lengths) == 3 * brute_force(config, lengths)


def reference_model(layers):
    """A full-attention model wide enough that products are nearly all of the work."""
    return tiny_model(
        **{"pattern": nope(), "num_layers": layers, "d_model": 128, "d_ff": 256, "head_dim": 32, "vocab_size": 512},
        attention="reference",
    )


def whole_square(config, length):
    """What the reference computes beyond the count: the upper triangle too."""
    pairs = length**2 - length * (length + 1) // 2
    return config.num_layers * 4 * config.num_heads * config.head_dim * pairs


def abstract_params(config):
    return {name: jax.ShapeDtypeStruct(info.shape, info.dtype) for name, info in describe(config).items()}


def test_the_model_runs_exactly_the_products_that_are_counted():
    config, tokens = reference_model(3), jnp.zeros((1, 64), int)
    counted = flops.forward_flops(config, [64]) + whole_square(config, 64)

    def forward(params):
        return bind(config, params)(tokens).sum()

    assert product_flops(forward, abstract_params(config)) == counted
    assert product_flops(jax.grad(forward), abstract_params(config)) == 3 * counted


def test_xla_counts_nearly_the_same():
    config, tokens = reference_model(1), jnp.zeros((1, 64), int)
    compiled = jax.jit(lambda params: bind(config, params)(tokens)).lower(abstract_params(config)).compile()
    counted = flops.forward_flops(config, [64]) + whole_square(config, 64)
    # XLA adds norms, softmax and activations.
    assert counted < compiled.cost_analysis()["flops"] < 1.05 * counted


def test_documents_are_found_in_packed_rows_and_padding_is_not_counted():
    segments = np.array([[1, 1, 1, 2, 3, 3, 0, 0], [1, 1, 1, 1, 1, 1, 1, 1], [5, 5, 7, 7, 7, 7, 7, 0]])
    assert list(flops.document_lengths(segments)) == [3, 1, 2, 8, 2, 5]
    # A row that ends with the number with which the next begins holds another document all the same.
    assert list(flops.document_lengths(np.array([[1, 1], [1, 1]]))) == [2, 2]
    assert list(flops.document_lengths(np.array([[0, 0]]))) == []
    assert list(flops.document_lengths(np.array([[0, 4, 4]]))) == [2]


def test_command_r7b_has_its_published_size():
    count = flops.parameters(R7B)
    layer = 2 * 4096**2 + 2 * 4096 * 1024 + 3 * 4096 * 14_336 + 4096
    assert count.embedding == 256_000 * 4096
    assert count.layers == 32 * layer
    assert count.total == 256_000 * 4096 + 32 * layer + 4096
    assert round(count.total / 1e9, 2) == 8.03
    assert flops.six_n(R7B, 10) == 60 * count.total


@pytest.mark.parametrize(("context", "ratio"), [(8192, 0.625), (32_768, 0.344), (262_144, 0.262)])
def test_the_hybrid_needs_the_published_share_of_the_cache(context, ratio):
    hybrid, full = (flops.cache_bytes(model, context, 2) for model in (R7B, R7B_FULL))
    assert hybrid / full == pytest.approx(ratio, abs=5e-4)
    assert full == 2 * 32 * context * 8 * 128 * 2


@pytest.mark.parametrize("context", [4096, 8192, 32_768, 262_144])
def test_the_hybrid_needs_its_share_of_attention_flops(context):
    hybrid, full = (
        sum(flops.attention_flops(model, kind, [context]) for kind in model.layer_kinds) for model in (R7B, R7B_FULL)
    )
    window = 4096
    pairs = context * (context + 1) / 2
    seen = pairs - (context - window) * (context - window + 1) / 2  # each query past the window misses some
    assert hybrid / full == pytest.approx((3 * seen / pairs + 1) / 4)
    assert hybrid / full == 1 if context == window else hybrid < full
