"""The scan over periods, and recomputation, change nothing but compile time and memory."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnope_jax.layers import LayerKind, nope, qk_norm, rnope, rnope_swa, rope
from rnope_jax.model import bind, describe
from tests.helpers import assert_close, assert_close_by_name, random_params, random_tokens, tiny_model
from tests.model import definition

KINDS_IN_ORDER = {
    "3:1": (rnope_swa(window=4, theta=100.0), "wwwfwwwf"),
    "2:1": (rnope_swa(window=4, theta=100.0, ratio=2), "wwfwwfww"),
    "1:1": (rnope_swa(window=4, theta=100.0, ratio=1), "wfwfwfwf"),
    "1:3 first": (rnope_swa(window=4, theta=100.0, order="global_first"), "fwwwfwww"),
    "1:2 first": (rnope_swa(window=4, theta=100.0, ratio=2, order="global_first"), "fwwfwwfw"),
    "rope": (rope(100.0), "rrrrrrrr"),
    "qk_norm": (qk_norm(100.0), "qqqqqqqq"),
    "nope": (nope(), "ffffffff"),
    "rnope": (rnope(100.0), "rfrfrfrf"),
    "rnope 2:1": (rnope(100.0, ratio=2), "rrfrrfrr"),
}
KIND_OF_LETTER = {
    "w": LayerKind(100.0, 4),
    "f": LayerKind(None, None),
    "r": LayerKind(100.0, None),
    "q": LayerKind(100.0, None, qk_norm=True),
}


@pytest.mark.parametrize(("pattern", "letters"), KINDS_IN_ORDER.values(), ids=KINDS_IN_ORDER)
def test_named_patterns_put_each_kind_where_they_say(pattern, letters):
    config = tiny_model(pattern=pattern, num_layers=8)
    assert config.layer_kinds == tuple(KIND_OF_LETTER[letter] for letter in letters)
    whole = config.num_periods * len(pattern)
    assert config.layer_kinds == pattern * config.num_periods + config.remainder
    assert len(config.remainder) == 8 - whole < len(pattern)


def value_and_gradients(hidden, params):
    """Hidden states, and the gradient of their product with a fixed direction."""
    direction = jnp.asarray(np.random.default_rng(0).normal(size=(2, 12, 16)), jnp.float32)

    def loss(params):
        h = hidden(params)
        return (h * direction).sum(), h

    (_, h), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    return h, gradients


# Two periods and two layers more; no whole period; whole periods only; another order; the other program.
@pytest.mark.parametrize(
    ("layers", "order", "remat"),
    [
        (10, "local_first", "full"),
        (3, "local_first", "full"),
        (8, "local_first", "full"),
        (6, "global_first", "full"),
        (10, "local_first", "sequential"),
        (3, "local_first", "sequential"),
    ],
)
def test_scan_equals_a_loop_over_layers(layers, order, remat):
    pattern = rnope_swa(window=4, theta=100.0, order=order)
    config = tiny_model(pattern=pattern, num_layers=layers, attention="reference", remat=remat)
    params, tokens = random_params(config), random_tokens(config, 2, 12)
    rows = definition.rows_of(config, definition.positions_from_zero(2, 12))

    def loop(params):
        h = definition.unrolled(config, params, tokens, rows)[-1]
        centred = h - h.mean(-1, keepdims=True)
        return centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + config.norm_eps) * params["norm.scale"]

    h, gradients = value_and_gradients(lambda params: bind(config, params).hidden(tokens), params)
    expected, expected_gradients = value_and_gradients(loop, params)
    assert_close(h, expected, 1e-5)
    assert_close_by_name(gradients, expected_gradients, 1e-4)


def test_recomputation_changes_no_value_and_no_gradient():
    results = []
    for remat, chunk in (
        ("none", None),
        ("attention", None),
        ("full", None),
        ("offload", None),
        ("sequential", None),
        ("none", 5),
        ("full", 4),
        ("sequential", 5),
    ):
        config = tiny_model(remat=remat, mlp_chunk=chunk)
        tokens = random_tokens(config, 2, 12)
        results.append(value_and_gradients(lambda p, c=config, t=tokens: bind(c, p).hidden(t), random_params(config)))
    expected, expected_gradients = results.pop(0)
    for h, gradients in results:
        assert_close(h, expected, 1e-6)
        assert_close_by_name(gradients, expected_gradients, 1e-5)


def abstract_params(config):
    return {name: jax.ShapeDtypeStruct(info.shape, info.dtype) for name, info in describe(config).items()}


def lowered_gradient(config, length=64):
    tokens = jnp.zeros((2, length), int)
    loss = jax.jit(jax.grad(lambda params: bind(config, params)(tokens).sum()))
    return loss.lower(abstract_params(config))


def test_recomputation_saves_memory():
    sizes = {}
    for remat in ("full", "attention", "none"):
        config = tiny_model(num_layers=24, d_ff=128, remat=remat)
        sizes[remat] = lowered_gradient(config, 256).compile().memory_analysis().temp_size_in_bytes
    assert sizes["full"] < sizes["none"] / 3
    assert sizes["full"] < sizes["attention"] < sizes["none"] / 2


def test_sequential_layers_share_no_memory_with_the_next():
    """A period has four layers: what one needs for its backward pass is there once, not four times."""
    sizes = {}
    for remat in ("full", "sequential"):
        config = tiny_model(pattern=rnope_swa(window=4, theta=100.0), num_layers=8, d_ff=512, remat=remat)
        sizes[remat] = lowered_gradient(config, 256).compile().memory_analysis().temp_size_in_bytes
    assert sizes["sequential"] < sizes["full"] / 2


def moved(config, length):
    """Types of the arrays that a gradient moves to the host's memory and back, on a TPU."""
    tokens = jnp.zeros((2, length), int)
    loss = jax.jit(jax.grad(lambda params: bind(config, params)(tokens).sum()))
    text = loss.trace(abstract_params(config)).lower(lowering_platforms=("tpu",)).as_text()
    found = re.findall(r'@annotate_device_placement.*placement = "(\w+)".* -> (tensor<\S+>)', text)
    return [sorted(kind for place, kind in found if place == where) for where in ("pinned_host", "device")]


def test_inputs_of_layers_and_attention_are_moved_to_the_host_and_back():
    config = tiny_model(pattern=rnope_swa(window=4, theta=100.0)[-2:], num_layers=4, num_heads=4, remat="offload")
    there, back = moved(config, 256)
    layer_input = f"tensor<2x256x{config.d_model}xf32>"
    assert there.count(layer_input) == 2  # each once, of the two kinds of layers that are scanned
    assert len(there) == 2 + 1 + 2  # attention of the window layer; of the full layer, and its log-sum-exp
    assert there == back
    assert moved(tiny_model(remat="attention"), 64) == [[], []]


def test_a_feed_forward_layer_in_chunks_never_exists_whole():
    length, width = 256, 1000
    whole, chunked = (
        lowered_gradient(tiny_model(num_layers=4, d_ff=width, mlp_chunk=chunk), length).compile()
        for chunk in (None, 64)
    )
    assert f"f32[{2 * length},{width}]" in whole.as_text()
    assert f"f32[{2 * length},{width}]" not in chunked.as_text()
    assert f"f32[{2 * 64},{width}]" in chunked.as_text()
    saved = whole.memory_analysis().temp_size_in_bytes - chunked.memory_analysis().temp_size_in_bytes
    assert saved > 2 * length * width * 4


@pytest.mark.parametrize("remat", ["full", "attention", "none", "sequential"])
def test_program_does_not_grow_with_depth(remat):
    model = partial(tiny_model, pattern=rnope_swa(window=4, theta=100.0), remat=remat)
    shallow, deep = (len(lowered_gradient(model(num_layers=layers)).as_text()) for layers in (8, 32))
    assert deep < 1.05 * shallow
