"""The model equals `Cohere2ForCausalLM` of transformers: logits, and gradients of every parameter."""

import numpy as np
import pytest

from rnope_jax.layers import LayerKind, nope, rnope, rnope_swa
from rnope_jax.model import bind
from tests.helpers import assert_close, tiny_model
from tests.parity.huggingface import PAD, VOCAB, check, make, ours, torch

DOCUMENTS = ((40, 1, 23), (5, 59), (64,))  # longer and shorter than twice the window of 16


def cohere2(pattern, layers=8, kv_heads=2, **changes):
    return tiny_model(
        **{"pattern": pattern, "num_layers": layers, "num_kv_heads": kv_heads, "vocab_size": VOCAB},
        **{"d_model": 32, "d_ff": 40, "logit_scale": 0.25, **changes},
    )


def test_two_periods_of_rnope_swa():
    check(cohere2(rnope_swa(window=16)))


def test_two_periods_of_rnope_swa_packed():
    check(cohere2(rnope_swa(window=16)), documents=DOCUMENTS)


def test_a_remainder_after_the_last_period():
    check(cohere2(rnope_swa(window=16), layers=10, remat="full"), documents=DOCUMENTS)


@pytest.mark.parametrize("backend", ["blockwise", "reference"])
def test_rows_of_several_blocks(backend):
    check(cohere2(rnope_swa(window=16, ratio=1), layers=2, attention=backend), length=150)


OTHERS = {
    "global first": (rnope_swa(window=16, ratio=2, order="global_first"), 4),
    "1:1": (rnope_swa(window=16, ratio=1), 3),
    "rnope without windows": (rnope(50_000.0), 3),
    "nope": (nope(), 2),
    "rope without windows": ((LayerKind(50_000.0, None),), 2),
}


@pytest.mark.parametrize(("pattern", "layers"), OTHERS.values(), ids=OTHERS)
def test_other_patterns(pattern, layers):
    check(cohere2(pattern, layers), documents=DOCUMENTS)


@pytest.mark.parametrize("kv_heads", [1, 4])
def test_groups_of_heads(kv_heads):
    check(cohere2(rnope_swa(window=16, ratio=1), 2, kv_heads), length=48)


@pytest.mark.parametrize("window", [1, 2, 100])
def test_extreme_windows(window):
    check(cohere2(rnope_swa(window=window, ratio=1), 2), length=48)


def test_the_comparison_can_tell_a_window_that_is_off_by_one():
    config, other = cohere2(rnope_swa(window=16), 4), cohere2(rnope_swa(window=17), 4)
    theirs = make(config)
    tokens = np.random.default_rng(1).integers(0, PAD, (1, 48))
    logits = theirs(input_ids=torch.tensor(tokens), use_cache=False).logits.detach().numpy()
    params = ours(config, dict(theirs.named_parameters()))
    assert_close(bind(config, params)(tokens), logits, 1e-4)
    wrong = bind(other, params)(tokens)
    assert_close(wrong[:, :16], logits[:, :16], 1e-4)
    assert np.abs(wrong[:, 16:] - logits[:, 16:]).max() > 1e-2
