"""Each collective has the mesh axis that it runs over, the bytes that a device sends, and how often."""

import numpy as np
import pytest

from rnope_jax.planning.collectives import Collective, by_axes, collectives, device_groups, mesh_axes, sent_bytes
from rnope_jax.planning.hlo import Instruction, Module
from tests.planning.test_hlo import read

CPU = {"data": 1, "fsdp": 2, "context": 2, "tensor": 2}
TPU = {"data": 1, "fsdp": 2, "context": 1, "tensor": 2}


def found(name: str, mesh: dict[str, int]) -> dict[str, Collective]:
    return {c.name: c for c in collectives(read(name), mesh)}


def test_a_compiled_program_on_eight_devices():
    program = found("cpu.txt", CPU)
    row = 16 * 4
    expected = {
        # name: kind, axes, bytes sent in one run, runs
        "all-gather.6": ("all-gather", ("context",), 8 * row, 5),
        "all-gather.7": ("all-gather", ("tensor",), 8 * 8 * 4, 5),
        "all-gather.8": ("all-gather", ("fsdp",), 8 * row, 5),
        "all_gather.3": ("all-gather", ("context",), 8 * row, 1),
        "reduce_scatter.7": ("reduce-scatter", ("context",), 8 * row, 1),
        "all-to-all": ("all-to-all", ("tensor",), 4 * row, 1),
        "ppermute.3": ("collective-permute", ("context",), 8 * row, 1),
        "all-reduce": ("all-reduce", ("fsdp", "context"), 2 * 4 * 3 // 4, 1),
    }
    assert {name: (c.kind, c.axes, c.sent, c.times) for name, c in program.items()} == expected


def test_what_tpus_write_in_other_words():
    program = found("tpu.txt", TPU)
    scattered = program["all-reduce.437"]
    assert (scattered.kind, scattered.axes, scattered.times) == ("reduce-scatter", ("fsdp",), 6)
    assert scattered.sent == 4096 * 512 * 4 // 2
    assert scattered.source.line == "model/linear.py:26 dot_general"
    gathered = program["all-reduce.453"]
    assert (gathered.kind, gathered.axes, gathered.gathers) == ("all-reduce", ("fsdp", "tensor"), True)
    assert not scattered.gathers
    swap = program["collective-permute-start"]  # asynchronous: the start counts, the end does not
    assert (swap.kind, swap.axes, swap.sent) == ("collective-permute", ("fsdp", "tensor"), 4 * 1024 * 4)
    assert len(program) == 3


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("replica_groups={{0,2},{1,3}}", [[0, 2], [1, 3]]),
        ("replica_groups={}", [[0, 1, 2, 3]]),
        ("replica_groups=[2,2]<=[4]", [[0, 1], [2, 3]]),
        ("replica_groups=[2,2]<=[2,2]T(1,0)", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2] {'a'}", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2] {'b'}", [[0, 1], [2, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'b'}", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=4] {'a':(1)2}", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=4] {'a':(2)2}", [[0, 1], [2, 3]]),
        ("source_target_pairs={{0,1},{1,0}}", [[0, 1], [1, 0]]),
    ],
)
def test_groups_in_every_notation(text, groups):
    instruction = Instruction("x", "f32[4]", "all-reduce", (), f", channel_id=1, {text}, use_global_device_ids=true")
    assert device_groups(instruction, 4).tolist() == groups


def test_axes_of_groups():
    mesh = {"data": 2, "fsdp": 4, "context": 1, "tensor": 2}
    places = np.arange(16).reshape(2, 4, 2)
    assert mesh_axes(places.reshape(2, 8), mesh) == ("fsdp", "tensor")
    assert mesh_axes(places.transpose(1, 2, 0).reshape(8, 2), mesh) == ("data",)
    assert mesh_axes(places.reshape(1, 16), mesh) == ("data", "fsdp", "tensor")


def test_a_ring_sends_the_least_that_it_must():
    assert sent_bytes("all-gather", 100, 4) == 300  # its own part to three others
    assert sent_bytes("reduce-scatter", 400, 4) == 300
    assert sent_bytes("all-reduce", 400, 4) == 600
    assert sent_bytes("all-to-all", 400, 4) == 300
    assert sent_bytes("collective-permute", 400, 2) == 400


def test_the_largest_come_first():
    order = [(kind, axes) for kind, axes, _ in by_axes(list(found("cpu.txt", CPU).values()))]
    assert order[0] == ("all-gather", ("context",))
    assert order[-1] == ("all-reduce", ("fsdp", "context"))


def test_what_crosses_slices_is_handed_to_the_hosts():
    attributes = (
        "channel_id=3, is_host_transfer=true, frontend_attributes={"
        '_xla_host_transfer_handler_name="xla_megascale_runtime",'
        '_xla_megascale_target="{1,2}x{0:3}",_xla_megascale_transfer_type="ALL_REDUCE"}'
    )
    module = Module(
        "HloModule jit_step, num_partitions=4\n\n"
        "ENTRY %main (p: f32[4,4,128]) -> token[] {\n"
        "  %p = f32[4,4,128]{2,1,0:T(4,128)} parameter(0)\n"
        "  %after-all = token[] after-all()\n"
        f"  %send = (f32[4,4,128]{{2,1,0:T(4,128)}}, u32[], token[]) send(%p, %after-all), {attributes}\n"
        f"  ROOT %send-done = token[] send-done(%send), {attributes}\n"
        "}\n"
    )
    (found,) = collectives(module, {"data": 2, "fsdp": 4, "context": 1, "tensor": 1}, slices_of_mesh=2)
    assert (found.kind, found.axes, found.group) == ("all-reduce", ("data",), 2)
    assert found.sent == 4 * 4 * 128 * 4
    assert found.groups.tolist() == [[0, 4]]


def test_a_sum_of_which_each_device_keeps_a_part_is_a_reduce_scatter_in_disguise():
    def program(kept: int) -> Module:
        return Module(
            "HloModule jit_step, num_partitions=4\n\n"
            "ENTRY %main (p: f32[4096,512], i: s32[]) -> f32[] {\n"
            "  %p = f32[4096,512]{1,0} parameter(0)\n"
            "  %i = s32[] parameter(1)\n"
            "  %sum = f32[4096,512]{1,0} all-reduce(%p), replica_groups=[1,4]<=[4], to_apply=%add\n"
            f"  ROOT %part = f32[{kept},512]{{1,0}} dynamic-slice(%sum, %i, %i), dynamic_slice_sizes={{{kept},512}}\n"
            "}\n"
        )

    for kept, expected in ((1024, True), (2048, False)):
        (found,) = collectives(program(kept), {"data": 1, "fsdp": 4, "context": 1, "tensor": 1})
        assert found.kind == "all-reduce"  # that is what runs, and what is counted
        assert found.sent == 2 * 4096 * 512 * 4 * 3 // 4
        assert found.scatters is expected
