"""Products of bfloat16 on a CPU: rounded once, and such as the processor has instructions for."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnope_jax.model.linear import matmul, project
from tests.helpers import assert_close


def operands(dtype=jnp.bfloat16):
    rng = np.random.default_rng(0)
    shapes = ((2, 48, 4, 16), (4, 16, 80), (2, 48, 80))
    x, weight, gradient = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes)
    # As wide as a float32 weight is, so that casting it is part of what is compared.
    return x.astype(dtype), weight, gradient.astype(dtype)


@jax.jit
def product_and_gradients(x, weight, gradient):
    y, pull = jax.vjp(lambda x, weight: project(x, weight, inputs=2), x, weight)
    return y, *pull(gradient)


def test_product_and_gradients_are_those_of_float32_rounded_once():
    x, weight, gradient = operands()
    rounded = weight.astype(jnp.bfloat16).astype(jnp.float32)
    wide = [np.asarray(a.astype(jnp.float32), np.float64) for a in (x, rounded, gradient)]
    y = np.einsum("bshd,hdn->bsn", wide[0], wide[1])
    dx = np.einsum("bsn,hdn->bshd", wide[2], wide[1])
    dw = np.einsum("bshd,bsn->hdn", wide[0], wide[2])
    found = product_and_gradients(x, weight, gradient)
    assert [a.dtype for a in found] == [jnp.bfloat16, jnp.bfloat16, jnp.float32]
    for actual, expected in zip(found[:2], (y, dx), strict=True):
        assert_close(actual.astype(jnp.float32), expected, 2**-8)
    assert_close(found[2], dw, 1e-6)  # gradients of weights are not rounded at all


def test_logits_are_float32():
    x, weight, _ = operands()
    assert project(x, weight, inputs=2, result_type=jnp.float32).dtype == jnp.float32


def test_operands_of_bfloat16_lie_row_by_row_and_sums_are_float32():
    """Otherwise XLA widens both operands first: the product then takes twice the time."""
    text = product_and_gradients.lower(*operands()).compile().as_text()
    products = re.findall(r"= (\w+)\[[\d,]+\]\{([\d,]+)\} dot\((.*?)\), (.*?)(?:, metadata|\n)", text)
    assert len(products) == 3
    for result, layout, _, dimensions in products:
        assert (result, layout) == ("f32", "1,0")
        assert "lhs_contracting_dims={1}" in dimensions
        assert "rhs_contracting_dims={0}" in dimensions
    assert not re.search(r"f32\[[\d,]+\]\S* convert\(%?(x|gradient)", text)


def test_nothing_is_copied_for_a_single_token():
    """In decoding, a copy of the output embedding for each token would take longer than the product."""
    x, table = jnp.ones((1, 1, 16), jnp.bfloat16), jnp.ones((300, 16), jnp.bfloat16)
    text = jax.jit(lambda x, table: project(x, table.T, result_type=jnp.float32)).lower(x, table).compile().as_text()
    entry = text[text.index("ENTRY") :]  # what stands before is inside of fusions, where nothing is written down
    assert "[300,16]" in entry
    assert "[16,300]" not in entry


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_matmul_sums_in_float32(dtype):
    a, b = jnp.full((8, 4096), 1.0, dtype), jnp.full((4096, 8), 1.0, dtype)
    b = b.at[0].set(256.0)  # to which bfloat16 could not add 1
    assert (matmul(a, b) == 4095 + 256).all()
