"""Compiled programs are read as they run: loops multiply, kernels with long descriptions do not end a computation."""

from pathlib import Path

from rnope_jax.planning.hlo import Module, array_bytes

FOLDER = Path(__file__).parent / "hlo"


def read(name: str) -> Module:
    return Module((FOLDER / name).read_text())


def runs_of(module: Module, name: str) -> int:
    return next(times for _, instruction, times in module.executed() if instruction.name == name)


def test_a_loop_runs_its_body_as_often_as_the_compiler_notes():
    module = read("cpu.txt")
    assert runs_of(module, "all-gather.6") == 5  # the scan is over five layers
    assert runs_of(module, "all-to-all") == 1


def test_without_a_note_the_condition_and_the_first_value_tell():
    module = read("tpu.txt")
    assert runs_of(module, "all-reduce.453") == 8 - 2
    assert runs_of(module, "all-reduce.437") == 8 - 2  # within a fusion of the body


def test_what_follows_a_long_description_belongs_to_the_loop():
    module = read("tpu.txt")
    kernel = module.computations["region_0.1_spmd.clone"].instructions["splash_mha_fwd_segmented_residuals.10"]
    assert kernel.opcode == "custom-call"
    assert "stack_frame_id=2" in kernel.attributes
    assert "fusion.2262" in module.computations["region_0.1_spmd.clone"].instructions


def test_an_operation_is_traced_to_the_innermost_line_of_the_package():
    module = read("tpu.txt")
    found = module.computations["region_0.1_spmd.clone"].instructions
    assert module.source(found["fusion.2262"]) == (
        "model/linear.py:26 dot_general",
        "project",
    )  # called from there, through a library
    assert module.source(found["all-reduce.453"]) == ("", "")


def test_bytes_of_arrays():
    assert array_bytes("bf16[1,4096,512]{2,1,0:T(8,128)(2,1)}") == [4096 * 512 * 2]
    assert array_bytes("(f32[], s32[3]{0}, pred[8], u4[3], f8e4m3fn[7])") == [4, 12, 8, 2, 7]
    assert array_bytes("token[]") == [0]
