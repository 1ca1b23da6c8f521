"""The full-attention variants equal `CohereForCausalLM` of transformers, with and without QK-norm."""

import pytest

from rnope_jax.layers import qk_norm, rope
from tests.helpers import tiny_model
from tests.parity.huggingface import VOCAB, check


@pytest.mark.parametrize("documents", [None, ((30, 1, 17), (48,))], ids=["whole", "packed"])
@pytest.mark.parametrize("pattern", [rope(), qk_norm()], ids=["rope", "qk_norm"])
def test_rope_and_qk_norm(pattern, documents):
    config = tiny_model(
        **{"pattern": pattern, "num_layers": 3, "vocab_size": VOCAB, "d_model": 32, "d_ff": 40, "logit_scale": 0.5}
    )
    check(config, class_name="Cohere", length=48, documents=documents)
