"""muP's coordinate check: under it, activations after some steps do not depend on the width."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rnope_jax.layers import rnope_swa
from rnope_jax.model import bind, describe
from tests.helpers import random_tokens, tiny_model
from tests.model import definition


def initial(config):
    """As `init` (see test_parameters), without its compile time."""
    rng = np.random.default_rng(0)
    ratio = config.d_model / config.mup_base_width if config.mup_base_width else 1.0

    def draw(name, info):
        std = config.init_std / np.sqrt(ratio) if info.is_matrix else config.init_std
        if name.endswith(("output", "down")):
            std /= np.sqrt(2 * config.num_layers)
        return np.ones(info.shape) if name.endswith("scale") else rng.normal(0, std, info.shape)

    return {name: jnp.asarray(draw(name, info), jnp.float32) for name, info in describe(config).items()}


def growth_after_training(width, base):
    """RMS of what three steps of Adam change in the last residual stream and in the logits."""
    config = tiny_model(
        **{"pattern": rnope_swa(window=4, ratio=1), "num_layers": 2, "d_model": width, "d_ff": 2 * width},
        **{"num_heads": width // 16, "num_kv_heads": width // 32, "head_dim": 16, "mup_base_width": base},
        attention="reference",
    )
    tokens = random_tokens(config, 2, 16)
    rows = definition.rows_of(config, definition.positions_from_zero(2, 15))
    scales = {name: info.learning_rate_scale for name, info in describe(config).items()}
    adam = optax.adam(1e-2)

    def measure(params):
        model, h = bind(config, params), definition.unrolled(config, params, tokens[:, :-1], rows)[-1]
        return h, model.logits(model.norm(h))

    def loss(params):
        _, logits = measure(params)
        return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()

    @jax.jit
    def run(params):
        def step(_, carry):
            params, state = carry
            updates, state = adam.update(jax.grad(loss)(params), state)
            updates = {name: scales[name] * update for name, update in updates.items()}
            return optax.apply_updates(params, updates), state

        trained, _ = jax.lax.fori_loop(0, 3, step, (params, adam.init(params)))
        return [jnp.sqrt(((a - b) ** 2).mean()) for a, b in zip(measure(trained), measure(params), strict=True)]

    return [float(x) for x in run(initial(config))]


def exponents(base, widths):
    """The powers of the width with which residual stream and logits move."""
    growth = np.array([growth_after_training(width, base) for width in widths])
    return np.polyfit(np.log(widths), np.log(growth), 1)[0]


def test_under_mup_updates_do_not_grow_with_width():
    assert exponents(64, (64, 128, 256, 512)) == pytest.approx(0, abs=0.2)


def test_without_mup_they_grow():
    stream, _ = exponents(None, (64, 256))
    assert stream > 1
