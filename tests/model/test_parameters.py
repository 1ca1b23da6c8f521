"""Initial parameters are what their declarations say."""

import math

import jax
import numpy as np
import pytest

from rnope_jax import flops
from rnope_jax.layers import nope, qk_norm, rnope_swa
from rnope_jax.model import bind, describe, init
from tests.helpers import random_params, random_tokens, tiny_model
from tests.model.definition import layer_params

PATTERNS = {
    "rnope_swa": rnope_swa(window=4),
    "global_first": rnope_swa(window=4, ratio=2, order="global_first"),
    "qk_norm": qk_norm(),
    "nope": nope(),
}
OUTPUTS = ("attention.output", "mlp.down")


@pytest.fixture(scope="module")
def wide():
    """A model with matrices large enough for statistics, and its initial parameters."""
    config = tiny_model(
        **{"d_model": 256, "d_ff": 320, "num_heads": 8, "num_kv_heads": 4, "head_dim": 32, "num_layers": 5},
        **{"pattern": qk_norm() + nope(), "vocab_size": 1024, "mup_base_width": 64, "init_std": 0.03},
    )
    return config, jax.jit(lambda: init(config, 0))()


@pytest.mark.parametrize("layers", [3, 4, 9])
@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
def test_describe_init_and_the_count_agree(pattern, layers):
    config = tiny_model(pattern=pattern, num_layers=layers)
    infos = describe(config)
    made = jax.eval_shape(lambda: init(config, 0))
    assert {n: (i.shape, i.dtype) for n, i in infos.items()} == {n: (x.shape, x.dtype) for n, x in made.items()}
    assert sum(math.prod(info.shape) for info in infos.values()) == flops.parameters(config).total


def test_declarations_are_consistent():
    for name, info in describe(tiny_model(pattern=qk_norm() + nope())).items():
        stacked = name.startswith("periods.")
        assert len(info.axes) == len(info.shape)
        assert (info.axes[0] == "layers") == stacked
        # A matrix is all inputs and outputs; only the stack is in neither.
        if info.is_matrix:
            assert sorted(info.input_axes + info.output_axes) == list(range(int(stacked), len(info.shape)))
        assert info.is_matrix == info.decay == (not name.endswith("scale") and name != "embedding")
        assert info.dtype == np.float32
    infos = describe(tiny_model())
    assert {infos[f"periods.0.attention.{n}"].input_axes for n in ("query", "key", "value")} == {(1,)}
    assert infos["periods.0.attention.output"].input_axes == (1, 2)
    assert infos["remainder.0.mlp.down"].input_axes == (0,)


def test_initial_spread_is_as_declared(wide):
    config, params = wide
    width_ratio = 256 / 64
    hidden = config.init_std / math.sqrt(width_ratio)
    for name, value in params.items():
        if name.endswith("scale"):
            assert (value == 1).all()
            continue
        expected = config.init_std if name == "embedding" else hidden
        if name.endswith(OUTPUTS):
            expected /= math.sqrt(2 * config.num_layers)
        assert float(value.std()) == pytest.approx(expected, rel=0.02), name
        assert abs(float(value.mean())) < 0.02 * expected, name


def test_without_mup_the_spread_and_rate_do_not_depend_on_width():
    config = tiny_model(d_model=256, pattern=nope(), num_layers=2)
    assert {info.learning_rate_scale for info in describe(config).values()} == {1.0}
    query = jax.jit(lambda: init(config, 0)["periods.0.attention.query"])()
    assert float(query.std()) == pytest.approx(config.init_std, rel=0.02)


def test_mup_scales_the_rate_of_matrices_only(wide):
    for name, info in describe(wide[0]).items():
        assert info.learning_rate_scale == (1 / 4 if info.is_matrix else 1.0), name


def test_no_two_matrices_start_alike(wide):
    config, params = wide
    layers = [layer_params(config, params, i) for i in range(config.num_layers)]
    flat = [np.asarray(p).ravel() for layer in layers for n, p in layer.items() if not n.endswith("scale")]
    for i, a in enumerate(flat):
        for b in flat[:i]:
            size = min(len(a), len(b))
            assert abs(np.corrcoef(a[:size], b[:size])[0, 1]) < 0.05


def test_a_seed_decides_the_parameters():
    config = tiny_model(num_layers=2)
    make = jax.jit(lambda seed: init(config, seed))
    first, again, other = make(1), make(1), make(2)
    constant = jax.jit(lambda: init(config, 1))()
    for name in first:
        assert (first[name] == again[name]).all()
        assert (first[name] == constant[name]).all()
        assert name.endswith("scale") or (first[name] != other[name]).all(), name


def test_logits_are_float32_and_scaled():
    plain = tiny_model(num_layers=2, compute_dtype="bfloat16")
    scaled = tiny_model(num_layers=2, compute_dtype="bfloat16", logit_scale=0.25)
    tokens, params = random_tokens(plain, 2, 8), random_params(plain)
    logits = bind(plain, params)(tokens)
    assert logits.dtype == np.float32
    assert (bind(scaled, params)(tokens) == 0.25 * logits).all()
    assert bind(plain, params).hidden(tokens).dtype == "bfloat16"
