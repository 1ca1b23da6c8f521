"""The compilers for GPUs and TPUs move to the host's memory what `model.remat = "offload"` asks for.

Ahead of time, for devices that are described; each needs its compiler, which continuous integration has not.
"""

import jax
import jax.numpy as jnp
import pytest

from benchmarks import gpu_target
from rnope_jax.config import MeshConfig
from rnope_jax.layers import LayerKind
from rnope_jax.model import bind
from rnope_jax.planning import topology
from rnope_jax.sharding import make_mesh
from rnope_jax.training.state import abstract_state
from rnope_jax.training.step import batch_sharding
from tests.helpers import tiny_config, tiny_model

LENGTH, LAYERS, HEADS, WIDTH = 1024, 16, 2, 256


def gpus():
    if not gpu_target.available():
        pytest.skip("jax's CUDA plugin is not installed")
    return gpu_target.devices("h100", 2)


def tpu():
    if not topology.available():
        pytest.skip("libtpu is not installed")
    return topology.devices(topology.parse("v5e:1x1"))


def compiled(remat, devices):
    """What each device holds for the gradient of a model with one kind of layers, one row for each device."""
    model = tiny_model(
        pattern=(LayerKind(rope_theta=1e4, window=256),),
        num_layers=LAYERS,
        d_model=WIDTH,
        d_ff=WIDTH,
        num_heads=HEADS,
        num_kv_heads=1,
        head_dim=128,
        compute_dtype="bfloat16",
        attention="auto",
        remat=remat,
    )
    mesh = make_mesh(MeshConfig(), devices)
    tokens = jax.ShapeDtypeStruct((len(devices), LENGTH), jnp.int32, sharding=batch_sharding(mesh))

    def loss(params, tokens, segment_ids):
        return (bind(model, params).hidden(tokens, segment_ids=segment_ids).astype(jnp.float32) ** 2).sum()

    with jax.set_mesh(mesh):
        params = abstract_state(tiny_config(model=model), mesh).params
        return jax.jit(jax.grad(loss)).lower(params, tokens, tokens).compile().memory_analysis()


@pytest.mark.parametrize("described", [gpus, tpu])
def test_what_attention_would_keep_lies_in_the_memory_of_the_host(described):
    devices = described()
    kept, moved = (compiled(remat, devices) for remat in ("attention", "offload"))
    # The input of a layer and attention's output in bfloat16, and at least a number for each query.
    layer = LENGTH * (2 * WIDTH + 2 * HEADS * 128 + 4 * HEADS)
    assert kept.host_temp_size_in_bytes == 0
    assert LAYERS * layer <= moved.host_temp_size_in_bytes < 1.5 * LAYERS * layer
    # Of a TPU all this fits into memory beside the cores, of which the compiler does not tell.
    assert described is tpu or moved.temp_size_in_bytes < kept.temp_size_in_bytes - LAYERS * layer / 2
