"""Compiler options reach the runtime of their platform, and never overrule the user."""

from rnope_jax.xla_flags import FLAGS, Flag, compiler_options, set_environment


def test_options_go_where_their_platform_reads_them(monkeypatch):
    monkeypatch.setitem(FLAGS, "tpu", (Flag("xla_tpu_a", "true", "why"), Flag("xla_tpu_b", "2", "why")))
    environment = {"XLA_FLAGS": "--xla_dump_to=here"}
    set_environment(environment)
    assert environment["LIBTPU_INIT_ARGS"] == "--xla_tpu_a=true --xla_tpu_b=2"
    # Options of libtpu there would end the program.
    assert environment["XLA_FLAGS"] == "--xla_dump_to=here"
    assert compiler_options("tpu") == {"xla_tpu_a": "true", "xla_tpu_b": "2"}
    assert compiler_options("cpu") == {}


def test_what_the_user_has_set_stays(monkeypatch):
    monkeypatch.setitem(FLAGS, "tpu", (Flag("xla_tpu_a", "true", "why"), Flag("xla_tpu_b", "2", "why")))
    environment = {"LIBTPU_INIT_ARGS": "--xla_tpu_a=false"}
    set_environment(environment)
    assert environment["LIBTPU_INIT_ARGS"] == "--xla_tpu_a=false --xla_tpu_b=2"
    set_environment(environment)
    assert environment["LIBTPU_INIT_ARGS"] == "--xla_tpu_a=false --xla_tpu_b=2"


def test_every_option_has_a_reason_and_the_prefix_of_its_platform():
    for platform, flags in FLAGS.items():
        for flag in flags:
            assert flag.reason
            assert flag.name.startswith(f"xla_{platform}_")
