"""The chunked cross-entropy against the dense one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnope_jax.config import LossConfig
from rnope_jax.training.loss import batch_loss, cross_entropy
from tests.helpers import assert_close, equations
from tests.training.steps import packed_batch, step_config

B, S, M, V = 3, 10, 6, 17
FACTOR = 0.7


def inputs():
    rng = np.random.default_rng(0)
    hidden, table = rng.normal(size=(B, S, M)), rng.normal(size=(V, M))
    mask = rng.random((B, S)) * (rng.random((B, S)) < 0.6)
    arrays = (jnp.asarray(x, jnp.float32) for x in (hidden, table, mask))
    return *arrays, jnp.asarray(rng.integers(0, V, (B, S)))


def dense(hidden, table, mask, targets):
    """Sums of the loss, with all logits at once."""
    log_p = jax.nn.log_softmax(FACTOR * hidden @ table.T)
    log_z = jax.nn.logsumexp(FACTOR * hidden @ table.T, axis=-1)
    nll = -(jax.nn.one_hot(targets, V) * log_p).sum(-1)
    return (nll * mask).sum(), (log_z**2 * mask).sum(), mask.sum()


@pytest.mark.parametrize("chunk", [1, 3, 5, S, 100])
def test_chunks_give_the_dense_loss(chunk):
    hidden, table, mask, targets = inputs()
    sums = cross_entropy(hidden, table, targets, mask, logit_factor=FACTOR, chunk=chunk, z_loss=0.3)
    for actual, expected in zip(sums[1:], dense(hidden, table, mask, targets), strict=True):
        assert_close(actual, expected, 1e-5)
    assert_close(sums.objective, sums.nll + 0.3 * sums.z, 1e-6)


@pytest.mark.parametrize("chunk", [3, S])
def test_chunks_give_the_dense_gradients(chunk):
    hidden, table, mask, targets = inputs()

    def chunked(hidden, table):
        sums = cross_entropy(hidden, table, targets, mask, logit_factor=FACTOR, chunk=chunk, z_loss=0.3)
        return 1.5 * sums.objective

    def whole(hidden, table):
        nll, z, _ = dense(hidden, table, mask, targets)
        return 1.5 * (nll + 0.3 * z)

    for name, actual, expected in zip(
        ("hidden", "table"), *(jax.grad(f, argnums=(0, 1))(hidden, table) for f in (chunked, whole)), strict=True
    ):
        assert_close(actual, expected, 1e-5, name)


def test_the_full_logits_never_exist():
    batch, length, width, vocabulary, chunk = 2, 64, 4, 512, 8
    hidden, table = jnp.zeros((batch, length, width)), jnp.zeros((vocabulary, width))
    targets, mask = jnp.zeros((batch, length), int), jnp.ones((batch, length))

    def largest(chunk):
        def loss(hidden, table):
            return cross_entropy(hidden, table, targets, mask, logit_factor=1.0, chunk=chunk).objective

        jaxpr = jax.make_jaxpr(jax.value_and_grad(loss, argnums=(0, 1)))(hidden, table)
        return max(out.aval.size for equation, _ in equations(jaxpr) for out in equation.outvars)

    assert largest(chunk) == batch * chunk * vocabulary
    assert largest(length) == batch * length * vocabulary  # what the walk would have found


def test_the_gradient_of_the_table_is_summed_in_float32():
    """One chunk more or less does not round the gradient to bfloat16 in between."""
    hidden, table, mask, targets = inputs()

    def gradient(chunk):
        def loss(table):
            half = hidden.astype(jnp.bfloat16)
            return cross_entropy(half, table, targets, mask, logit_factor=FACTOR, chunk=chunk).objective

        return np.asarray(jax.grad(loss)(table))

    one_by_one = gradient(1)
    assert one_by_one.dtype == np.float32
    kept = np.asarray(jnp.asarray(one_by_one).astype(jnp.bfloat16).astype(jnp.float32))
    assert (one_by_one != kept).mean() > 0.5


def test_padding_and_other_documents_weigh_nothing():
    run = step_config()
    batch = packed_batch(run)

    class Model:
        config = run.model
        embedding = jnp.asarray(np.random.default_rng(1).normal(size=(config.vocab_size, 4)), jnp.float32)

        def hidden(self, tokens, positions, segment_ids):
            return self.embedding[tokens]

    sums = batch_loss(Model(), batch, LossConfig(chunk=5))
    changed = batch._replace(targets=np.where(batch.loss_mask > 0, batch.targets, 7))
    assert sums.weight == batch.loss_mask.sum()
    assert sums.nll == batch_loss(Model(), changed, LossConfig(chunk=5)).nll
