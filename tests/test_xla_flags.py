"""Compiler options reach the runtime of their platform, and never overrule the user."""

import jax
import pytest

from rnope_jax import xla_flags
from rnope_jax.xla_flags import FLAGS, VARIABLES, Flag, compiler_options, set_environment


@pytest.fixture(autouse=True)
def gpus(monkeypatch):
    """Whether jax can use GPUs, whatever is installed here."""
    found = {"here": False}
    monkeypatch.setitem(FLAGS, "cpu", ())
    monkeypatch.setattr(xla_flags, "_has_gpu_plugin", lambda: found["here"])
    return found


def test_options_go_where_their_platform_reads_them(monkeypatch, gpus):
    monkeypatch.setitem(FLAGS, "tpu", (Flag("xla_tpu_a", "true", "why"), Flag("xla_tpu_b", "2", "why")))
    environment = {"XLA_FLAGS": "--xla_dump_to=here"}
    set_environment(environment)
    assert environment["LIBTPU_INIT_ARGS"] == "--xla_tpu_a=true --xla_tpu_b=2"
    # Options of libtpu there would end the program.
    assert environment["XLA_FLAGS"] == "--xla_dump_to=here"
    assert compiler_options("tpu") == {"xla_tpu_a": "true", "xla_tpu_b": "2"}
    assert compiler_options("cpu") == {}


def test_the_compiler_of_this_machine_knows_its_options():
    environment = {}
    set_environment(environment)
    assert all(f"--{flag.name}={flag.value}" in environment["XLA_FLAGS"] for flag in FLAGS["cpu"])
    compiled = jax.jit(lambda x: x + 1).lower(1.0).compile(compiler_options("cpu"))
    assert compiled(1.0) == 2


def test_options_of_gpus_are_of_the_type_that_the_compiler_reads(monkeypatch):
    monkeypatch.setitem(FLAGS, "gpu", (Flag("xla_gpu_a", "true", "why"), Flag("xla_gpu_b", "2", "why")))
    assert compiler_options("gpu") == {"xla_gpu_a": True, "xla_gpu_b": "2"}


def test_what_the_user_has_set_stays(monkeypatch):
    monkeypatch.setitem(FLAGS, "tpu", (Flag("xla_tpu_a", "true", "why"), Flag("xla_tpu_b", "2", "why")))
    environment = {"LIBTPU_INIT_ARGS": "--xla_tpu_a=false"}
    set_environment(environment)
    assert environment["LIBTPU_INIT_ARGS"] == "--xla_tpu_a=false --xla_tpu_b=2"
    set_environment(environment)
    assert environment["LIBTPU_INIT_ARGS"] == "--xla_tpu_a=false --xla_tpu_b=2"


def test_options_of_gpus_are_set_where_jax_can_use_them(monkeypatch, gpus):
    monkeypatch.setitem(FLAGS, "gpu", (Flag("xla_gpu_a", "true", "why"),))
    environment = {}
    set_environment(environment)
    assert "XLA_FLAGS" not in environment
    assert not {flag.name for flag in VARIABLES["gpu"]} & environment.keys()
    gpus["here"] = True
    set_environment(environment)
    assert environment["XLA_FLAGS"] == "--xla_gpu_a=true"
    assert environment["XLA_PYTHON_CLIENT_MEM_FRACTION"] == "0.9"
    chosen = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.5"}
    set_environment(chosen)
    assert chosen["XLA_PYTHON_CLIENT_MEM_FRACTION"] == "0.5"


def test_every_option_has_a_reason_and_the_prefix_of_its_platform():
    for platform, flags in FLAGS.items():
        for flag in flags:
            assert flag.reason
            assert flag.name.startswith(f"xla_{platform}_")
