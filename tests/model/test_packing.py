"""Documents packed into rows give what each gives alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnope_jax.layers import LayerKind, LogScaling, rnope_swa, rope
from rnope_jax.model import bind
from tests.helpers import assert_close, assert_close_by_name, pack, random_params, tiny_model

# 80 tokens in all; the longest document is longer than twice the window; the last three tokens are padding.
DOCUMENTS = (5, 44, 1, 27)
LENGTH = 80
PATTERNS = {
    "rnope_swa": rnope_swa(window=8, theta=100.0, ratio=1),
    "rope": rope(100.0),
    "window beyond the row": rnope_swa(window=100, theta=100.0, ratio=1),
    "log scaling": (LayerKind(100.0, 8, qk_norm=True), LayerKind(None, None, log_scaling=LogScaling(8.0))),
}


def loss_and_logits(config, params, tokens, targets, mask, **rows):
    def loss(params):
        logits = bind(config, params)(tokens, **rows)
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], -1)[..., 0]
        return -(chosen * mask).sum(), logits

    return jax.jit(jax.value_and_grad(loss, has_aux=True))(params)


@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
def test_packed_documents_equal_separate_ones(pattern):
    config = tiny_model(pattern=pattern)
    params = random_params(config)
    rng = np.random.default_rng(0)
    texts = [rng.integers(0, config.vocab_size, size + 1) for size in DOCUMENTS]
    ends = np.cumsum(DOCUMENTS)

    tokens, targets, mask = np.zeros((3, 1, LENGTH), int)
    alone, alone_targets, alone_mask = np.zeros((3, len(DOCUMENTS), max(DOCUMENTS)), int)
    for row, (text, end) in enumerate(zip(texts, ends, strict=True)):
        size = len(text) - 1
        tokens[0, end - size : end], targets[0, end - size : end], mask[0, end - size : end] = text[:-1], text[1:], 1
        # What follows a document in its row is hidden from it by causality.
        alone[row, :size], alone_targets[row, :size], alone_mask[row, :size] = text[:-1], text[1:], 1

    segments, positions = pack(DOCUMENTS, length=LENGTH)
    (loss, logits), gradients = loss_and_logits(
        config, params, tokens, targets, mask, positions=positions, segment_ids=segments
    )
    (separate_loss, separate), separate_gradients = loss_and_logits(config, params, alone, alone_targets, alone_mask)

    assert_close(loss, separate_loss, 1e-5)
    for row, (size, end) in enumerate(zip(DOCUMENTS, ends, strict=True)):
        assert_close(logits[0, end - size : end], separate[row, :size], 1e-4, f"document {row}")
    assert_close_by_name(gradients, separate_gradients, 1e-4)
