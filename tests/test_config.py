"""The configuration of a run: what is accepted, what is refused and how, and what follows from it."""

import inspect
from dataclasses import replace
from pathlib import Path

import pytest

from rnope_jax.config import (
    CheckpointConfig,
    Config,
    DataConfig,
    EvaluationConfig,
    LoggingConfig,
    LossConfig,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
    ScheduleConfig,
    StageConfig,
)
from rnope_jax.errors import ConfigError
from rnope_jax.layers import LayerKind, LogScaling, nope, rnope_swa
from tests.helpers import tiny_config, tiny_model


def stage(**changes):
    defaults = {"name": "a", "steps": 10, "sequence_length": 16, "batch_size": 8}
    return StageConfig(**{**defaults, "schedule": ScheduleConfig(peak=1e-3), **changes})


def schedule(**changes):
    return ScheduleConfig(**{"peak": 1e-3, **changes})


def test_json_reads_back_equal():
    config = tiny_config(
        model=tiny_model(
            pattern=(*rnope_swa(window=8), LayerKind(None, None, qk_norm=True, log_scaling=LogScaling(9.0))),
            mup_base_width=8,
        ),
        stages=(stage(), stage(name="b", rope_theta=1e6, corpus=("x", "y"), schedule=schedule(kind="wsd"))),
        optimizer=OptimizerConfig(name="muon", clip_norm=None, skip_spikes=3.0),
        mesh=MeshConfig(data=2),
        run_dir="/tmp/x",
    )
    again = Config.from_json(config.to_json())
    assert again == config
    assert hash(again) == hash(config)
    assert again.to_json() == config.to_json()


def test_lists_and_ints_from_python_are_accepted():
    config = Config(
        name="x",
        model=tiny_model(pattern=list(rnope_swa(window=4, theta=100)), norm_eps=1),
        stages=[stage(corpus=["a"], rope_theta=500, schedule=schedule(peak=1))],
        optimizer=OptimizerConfig(clip_norm=1, weight_decay=0),
    )
    assert config.stages[0].corpus == ("a",)
    assert config.model.pattern == rnope_swa(window=4, theta=100.0)
    assert isinstance(config.model.norm_eps, float)
    assert Config.from_json(config.to_json()) == config


REFUSED = [
    (lambda: tiny_model(pattern=()), r"model\.pattern = \(\): needs at least one layer kind, for example rnope_swa"),
    *(
        (lambda name=name: tiny_model(**{name: 0}), rf"model\.{name} = 0: must be at least 1")
        for name in ("num_layers", "vocab_size", "d_model", "d_ff", "num_heads", "num_kv_heads", "head_dim")
    ),
    (lambda: tiny_model(num_heads=6, num_kv_heads=4), r"num_kv_heads = 4: must divide num_heads = 6: .*\[1, 2, 3, 6\]"),
    (lambda: tiny_model(head_dim=7), r"model\.head_dim = 7: must be even, because RoPE"),
    (lambda: tiny_model(norm_eps=0), r"model\.norm_eps = 0\.0: must be positive"),
    (lambda: tiny_model(logit_scale=-1), r"model\.logit_scale = -1\.0: must be positive"),
    (lambda: tiny_model(init_std=0), r"model\.init_std = 0\.0: must be positive"),
    (lambda: tiny_model(mup_base_width=0), r"model\.mup_base_width = 0: .*or None"),
    (lambda: tiny_model(compute_dtype="float16"), r"model\.compute_dtype = 'float16': must be one of 'bfloat16'"),
    (lambda: tiny_model(attention="blokwise"), r"model\.attention = 'blokwise': .*did you mean 'blockwise'"),
    (
        lambda: tiny_model(num_layers=3, remat="offload"),
        r"""model\.remat = 'offload': .* num_layers of at least twice the pattern: 4; use "attention\"""",
    ),
    (lambda: tiny_model(d_model="16"), r"model\.d_model = '16': expected a whole number, got str"),
    (lambda: schedule(peak=0), r"schedule\.peak = 0\.0: must be positive"),
    (lambda: schedule(peak=float("inf")), r"schedule\.peak = inf: must be finite"),
    (lambda: schedule(warmup_steps=-1), r"schedule\.warmup_steps = -1: must be 0 or more"),
    (lambda: schedule(final_fraction=1.5), r"schedule\.final_fraction = 1\.5: must be between 0 and 1"),
    (lambda: schedule(decay_fraction=-0.5), r"schedule\.decay_fraction = -0\.5: must be between 0 and 1"),
    (lambda: schedule(kind="cosin"), r"schedule\.kind = 'cosin': .*did you mean 'cosine'"),
    *(
        (lambda name=name: stage(**{name: 0}), rf"stages\['a'\]\.{name} = 0: must be at least 1")
        for name in ("steps", "sequence_length", "batch_size", "accumulation")
    ),
    (lambda: stage(accumulation=3), r"stages\['a'\]\.batch_size = 8: must be divisible by accumulation = 3"),
    (
        lambda: stage(schedule=schedule(warmup_steps=11)),
        r"stages\['a'\]\.schedule\.warmup_steps = 11: must not exceed the stage's steps = 10",
    ),
    (lambda: stage(rope_theta=-1), r"stages\['a'\]\.rope_theta = -1\.0: must be positive, or None"),
    (lambda: DataConfig(corpus=()), r"data\.corpus = \(\): needs at least one"),
    (lambda: DataConfig(suffixes=()), r"data\.suffixes = \(\): needs at least one"),
    (lambda: DataConfig(held_out_fraction=0), r"data\.held_out_fraction = 0\.0: must be between 0 and 1"),
    (lambda: DataConfig(held_out_fraction=1), r"data\.held_out_fraction = 1\.0: must be between 0 and 1"),
    (lambda: OptimizerConfig(beta1=1), r"optimizer\.beta1 = 1\.0: must be at least 0 and below 1"),
    (lambda: OptimizerConfig(beta2=-0.1), r"optimizer\.beta2 = -0\.1"),
    (lambda: OptimizerConfig(eps=0), r"optimizer\.eps = 0\.0: must be positive"),
    (lambda: OptimizerConfig(weight_decay=-1), r"optimizer\.weight_decay = -1\.0: must be 0 or more"),
    (lambda: OptimizerConfig(clip_norm=0), r"optimizer\.clip_norm = 0\.0: must be positive, or None"),
    (lambda: OptimizerConfig(skip_spikes=1), r"optimizer\.skip_spikes = 1\.0: must be above 1, or None"),
    (lambda: OptimizerConfig(max_skipped=0), r"optimizer\.max_skipped = 0: must be at least 1"),
    (lambda: OptimizerConfig(name="adam"), r"optimizer\.name = 'adam': .*did you mean 'adamw'"),
    (lambda: LossConfig(z_loss=-1), r"loss\.z_loss = -1\.0: must be 0 or more"),
    (lambda: LossConfig(chunk=0), r"loss\.chunk = 0: must be at least 1"),
    *(
        (lambda name=name: EvaluationConfig(**{name: 0}), rf"evaluation\.{name} = 0: must be at least 1")
        for name in ("every", "rows", "sample_tokens")
    ),
    (lambda: CheckpointConfig(every=0), r"checkpoint\.every = 0: must be at least 1"),
    (lambda: CheckpointConfig(keep=0), r"checkpoint\.keep = 0: must be at least 1"),
    (lambda: CheckpointConfig(keep_every=0), r"checkpoint\.keep_every = 0: must be at least 1, or None"),
    (lambda: LoggingConfig(every=0), r"logging\.every = 0: must be at least 1"),
    (lambda: MeshConfig(data=0), r"mesh\.data = 0: must be at least 1, or -1"),
    (lambda: MeshConfig(tensor=-2), r"mesh\.tensor = -2: must be at least 1, or -1"),
    (lambda: MeshConfig(data=-1), r"mesh\.data = -1: only one axis may be -1"),
    (lambda: tiny_config(name=""), r"config\.name = ''"),
    (lambda: tiny_config(name="a/b"), r"config\.name = 'a/b': must be a plain"),
    (lambda: tiny_config(stages=()), r"config\.stages = \(\): needs at least one stage"),
    (lambda: tiny_config(stages=(stage(), stage())), r"config\.stages = .*names must differ, got \['a', 'a'\]"),
    (lambda: tiny_config(seed=-1), r"config\.seed = -1: must be between 0 and 2\^31 - 1"),
    (lambda: tiny_config(seed=2**31), r"config\.seed = 2147483648"),
    (lambda: tiny_config(model=3), r"config\.model = 3: expected ModelConfig, got int"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED, ids=[message[:40] for _, message in REFUSED])
def test_refusals_name_the_field_the_value_and_the_remedy(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_reading_names_the_whole_path():
    data = tiny_config().to_dict()
    data["model"]["pattern"][1]["windw"] = 4
    with pytest.raises(ConfigError, match=r"config\.model\.pattern\[1\]\.windw: .*did you mean 'window'"):
        Config.from_dict(data, "config")
    data = tiny_config().to_dict()
    data["stages"][0]["schedule"]["peak"] = "high"
    with pytest.raises(ConfigError, match=r"config\.stages\[0\]\.schedule\.peak = 'high': expected a number"):
        Config.from_dict(data, "config")
    with pytest.raises(ConfigError, match="configuration is not JSON"):
        Config.from_json("{")


def test_an_odd_head_is_fine_without_rope():
    assert tiny_model(pattern=nope(), head_dim=7).head_dim == 7


def test_theta_holds_until_a_stage_sets_another():
    config = tiny_config(
        model=tiny_model(pattern=rnope_swa(window=4, theta=100.0)),
        stages=(stage(), stage(name="b", rope_theta=200.0), stage(name="c"), stage(name="d", rope_theta=300.0)),
    )
    thetas = [config.stage_model(i).pattern[0].rope_theta for i in range(4)]
    assert thetas == [100.0, 200.0, 200.0, 300.0]
    for i in range(4):
        model = config.stage_model(i)
        assert model.pattern[3] == LayerKind(None, None)
        assert replace(model, pattern=config.model.pattern) == config.model


@pytest.mark.parametrize(("layers", "periods", "rest"), [(8, 2, 0), (10, 2, 2), (3, 0, 3), (4, 1, 0)])
def test_layers_are_whole_periods_and_a_remainder(layers, periods, rest):
    model = tiny_model(pattern=rnope_swa(window=4), num_layers=layers)
    assert model.num_periods == periods
    assert model.remainder == model.pattern[:rest]
    assert model.layer_kinds == model.pattern * periods + model.pattern[:rest]


def test_derived_values():
    stages = (stage(), stage(name="b", steps=5, sequence_length=64, batch_size=2))
    config = tiny_config(stages=stages)
    assert [s.tokens for s in stages] == [10 * 8 * 16, 5 * 2 * 64]
    assert config.total_steps == 15
    assert config.max_sequence_length == 64
    assert config.directory == Path("runs/tiny")
    assert replace(config, run_dir="/x/y").directory == Path("/x/y")


def test_every_field_of_every_configuration_says_what_it_is():
    """The command line's help is made of these lines."""
    for cls in (Config, ModelConfig, StageConfig, ScheduleConfig, DataConfig, OptimizerConfig, MeshConfig):
        source = inspect.getsource(cls)
        for name in cls.__dataclass_fields__:
            after = source.split(f"\n    {name}: ")[1].split("\n")[1]
            assert after.strip().startswith('"""'), f"{cls.__name__}.{name}"


def test_a_step_past_the_stages_is_refused():
    """As of a run whose recorded configuration somebody has shortened."""
    config = tiny_config(stages=(stage(steps=3), stage(name="b", steps=2)))
    assert [config.stage_at(step) for step in range(5)] == [0, 0, 0, 1, 1]
    with pytest.raises(ConfigError, match=r"stages: they have 5 steps together, and step 6 was taken"):
        config.stage_at(5)
