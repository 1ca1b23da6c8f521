"""cuDNN is asked for what the definition says, and for nothing else: what it cannot express is refused.

That XLA computes the same when it is asked so is in test_backends.py; the compiled call is in test_gpu_compiler.py.
"""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import use_abstract_mesh

from rnope_jax import attention
from rnope_jax.attention import AttentionSpec, attend
from rnope_jax.errors import UserError
from tests.attention.test_pallas_gpu import H100, described

Q = jnp.ones((1, 32, 4, 16), jnp.bfloat16)
K = Q[:, :, :2]


@pytest.mark.parametrize(("window", "asked"), [(None, None), (1, (0, 0)), (8, (7, 0)), (31, (30, 0)), (32, None)])
def test_a_window_counts_the_query_and_comes_with_the_causal_mask(monkeypatch, window, asked):
    seen = {}

    def record(q, k, v, **options):
        seen.update(options)
        return q

    monkeypatch.setattr(jax.nn, "dot_product_attention", record)
    with use_abstract_mesh(described()):
        jax.eval_shape(lambda q, k: attend(q, k, k, AttentionSpec(scale=0.3, window=window), backend="cudnn"), Q, K)
    assert seen == {"scale": 0.3, "is_causal": True, "local_window_size": asked, "implementation": "cudnn"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"packed": True}, r"cannot keep packed documents apart \(segment_ids\); use \"auto\" or \"pallas_gpu\""),
        ({"dtype": "float32"}, r"model.compute_dtype = \"float32\": .* bfloat16 and float16 only"),
        ({"head_dim": 260}, r"model.head_dim = 260: .* multiples of 8 up to 256 on NVIDIA H100"),
        ({"head_dim": 60}, r"model.head_dim = 60: .* multiples of 8"),
    ],
)
def test_what_cudnn_cannot_compute_is_refused(arguments, message):
    with use_abstract_mesh(described()), pytest.raises(UserError, match=message):
        attention.check("cudnn", "gpu", H100, **{"packed": False, **arguments})


def test_an_older_gpu_takes_narrower_heads():
    with use_abstract_mesh(described("NVIDIA A100-SXM4-80GB")):
        attention.check("cudnn", "gpu", "NVIDIA A100-SXM4-80GB", packed=False, head_dim=128)
        with pytest.raises(UserError, match=r"up to 128 on NVIDIA A100"):
            attention.check("cudnn", "gpu", "NVIDIA A100-SXM4-80GB", packed=False, head_dim=256)


def test_the_call_itself_refuses_packed_documents():
    with use_abstract_mesh(described()), pytest.raises(UserError, match="segment_ids"):
        attend(Q, K, K, AttentionSpec(scale=1.0), segment_ids=jnp.ones((1, 32), jnp.int32), backend="cudnn")


def test_cudnn_is_refused_off_gpu():
    with pytest.raises(UserError, match=r'"cudnn" needs an NVIDIA GPU, .* for cpu .*; use "auto"'):
        attend(Q, K, K, AttentionSpec(scale=1.0), backend="cudnn")
