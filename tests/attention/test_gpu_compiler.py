"""The GPU compiler accepts what we give it: compiled for GPUs that are described but not there.

Needs jax's CUDA plugin; no GPU and no driver.
"""

import re

import jax
import pytest

from benchmarks.gpu_compile import compile_attention
from benchmarks.gpu_target import CHIPS, available, devices
from rnope_jax.attention import choose
from rnope_jax.attention.pallas_gpu_tiles import WIDTHS, generation

pytestmark = pytest.mark.skipif(not available(), reason="jax's CUDA plugin is not installed")

HEADS = (4, 2)


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("dim", WIDTHS)
def test_all_kernels_of_the_table_compile(chip, dim, tmp_path):
    compiled = compile_attention(
        chip, dtype="bfloat16", length=1024, window=300, heads=HEADS, dim=dim, dump=str(tmp_path)
    )
    assert compiled.as_text().count("__gpu$xla.gpu.triton") == 3
    plan = next(tmp_path.glob("*thunk_sequence.txt")).read_text()
    shared = [int(size) for size in re.findall(r"_kernel .*shared_memory: (\d+) bytes", plan)]
    assert len(shared) == 3
    assert max(shared) <= CHIPS[chip].usable_shared_memory


def test_cudnn_is_given_the_window_with_the_query_counted():
    for window, length in ((300, 300), (None, 0)):
        compiled = compile_attention(
            "h100", dtype="bfloat16", length=1024, window=window, heads=HEADS, dim=128, packed=False, backend="cudnn"
        )
        text = compiled.as_text()
        assert {"__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward"} <= set(re.findall(r'target="([^"]*)"', text))
        assert set(re.findall(r'sliding_window_length":\s*(\d+)', text)) == {str(length)}
        assert set(re.findall(r'mask_type":\s*"(\w+)"', text)) == {"CAUSAL"}


def test_described_gpus_are_those_of_the_tables():
    for chip, name in (("h100", "hopper"), ("a100", "ampere"), ("l40s", "other")):
        [device] = devices(chip)
        assert generation(device.device_kind) == name
        mesh = jax.sharding.Mesh([device], ("data",))
        with jax.set_mesh(mesh):
            assert choose("auto", 4096) == "pallas_gpu"
