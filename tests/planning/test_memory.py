"""What a step needs, by category, against counts by hand; the batch that fits, from few compiles."""

from dataclasses import replace

import jax
import pytest

from rnope_jax.config import Config, MeshConfig
from rnope_jax.errors import UserError
from rnope_jax.planning import compiling, search
from rnope_jax.planning.compiling import Compiled, compile_step
from rnope_jax.planning.memory import account, kept_activations
from rnope_jax.planning.search import largest_batch
from rnope_jax.sharding import make_mesh
from tests.helpers import tiny_config, tiny_model

LIMIT = 2**30


def config_of(**model) -> Config:
    return tiny_config(model=tiny_model(**model), mesh=MeshConfig(fsdp=4, tensor=2))


def parameter_count(config: Config, parts: bool) -> int:
    """Of one device, from the shapes as the model's definition writes them."""
    m = config.model
    fsdp, tensor = (4, 2) if parts else (1, 1)
    attention = m.d_model * m.head_dim * (2 * m.num_heads + 2 * m.num_kv_heads)
    matrices = m.num_layers * (attention + 3 * m.d_model * m.d_ff) + m.vocab_size * m.d_model
    return matrices // (fsdp * tensor) + (m.num_layers + 1) * m.d_model  # norms are whole everywhere


def test_the_categories_of_a_compiled_step_are_those_counted_by_hand():
    config = config_of(remat="full")
    mesh = make_mesh(config.mesh)
    compiled = compile_step(config, 0, mesh, {})
    memory = account(config, 0, mesh, compiled, LIMIT)
    assert memory.parameters == 4 * parameter_count(config, parts=True)
    # Two moments and Adam's counter.
    assert memory.optimizer == 2 * memory.parameters + 4
    stage = config.stages[0]
    assert memory.batch == 5 * 4 * stage.batch_size * stage.sequence_length // 4
    assert 0 <= memory.padding < 1024
    assert memory.total == compiled.total
    assert memory.spare == LIMIT - memory.total
    assert not compiled.warnings


@pytest.mark.parametrize(
    ("remat", "accumulation", "context"), [("full", 1, 1), ("full", 2, 1), ("full", 1, 2), ("sequential", 1, 1)]
)
def test_full_remat_keeps_the_input_of_each_layer(remat, accumulation, context):
    config = config_of(remat=remat, num_layers=40, d_model=64)
    stage = replace(config.stages[0], accumulation=accumulation)
    config = replace(config, stages=(stage,), mesh=MeshConfig(fsdp=4, context=context, tensor=2 // context))
    mesh = make_mesh(config.mesh)
    tokens = stage.batch_size // accumulation * stage.sequence_length // (4 * context)
    streams = 4 * tokens * 64 * config.model.num_layers
    # Beside them: what the last norm and the loss take, the rotations, and the table that the loss has gathered.
    beside = 4 * tokens * (4 * 64 + 8 * config.model.head_dim) + 4 * config.model.vocab_size * 64
    assert streams <= kept_activations(config, 0, mesh) <= streams + beside


def test_no_remat_keeps_more_and_splits_heads_and_width():
    mesh = make_mesh(MeshConfig(fsdp=4, tensor=2))
    full, none = (kept_activations(config_of(remat=remat), 0, mesh) for remat in ("full", "none"))
    assert none > 3 * full
    whole = kept_activations(config_of(remat="none"), 0, make_mesh(MeshConfig(fsdp=4), jax.devices()[:4]))
    assert whole / 2 < none < whole


def test_what_is_offloaded_is_not_kept_on_the_device():
    mesh = make_mesh(MeshConfig(fsdp=4, tensor=2))
    offload, full = (kept_activations(config_of(remat=remat, num_layers=40), 0, mesh) for remat in ("offload", "full"))
    assert 0 < offload < full / 2


def test_a_program_that_is_too_large_is_a_plan_and_not_an_error(monkeypatch):
    class Lowered:
        def compile(self, compiler_options):
            raise jax.errors.JaxRuntimeError(
                "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries "
                "(2.50G) exceeds available HBM (1.00G).\nmore"
            )

    class Step:
        def lower(self, state, batch):
            return Lowered()

    monkeypatch.setattr(compiling, "make_train_step", lambda *_: Step())
    config = config_of(remat="full")
    mesh = make_mesh(config.mesh)
    compiled = compile_step(config, 0, mesh, {})
    assert compiled.temporaries == int(2.5 * 2**30)
    assert compiled.refusal.startswith("RESOURCE_EXHAUSTED")
    memory = account(config, 0, mesh, compiled, LIMIT)
    assert memory.spare == LIMIT - memory.parameters - memory.optimizer - memory.batch - 12 - int(2.5 * 2**30)


def test_a_batch_that_cannot_be_split_is_named():
    config = config_of()
    stage = replace(config.stages[0], batch_size=6)
    with pytest.raises(UserError, match=r"batch_size = 6.*for example 4 or 8"):
        compile_step(replace(config, stages=(stage,)), 0, make_mesh(config.mesh), {})


def programs(fixed: int, each: int, limit: int, compiles: list[int]):
    """Stands in for the compiler: temporaries that grow by `each` with every row of a device."""

    def compile_step(config, index, mesh, options):
        rows = config.stages[index].batch_size // 4
        compiles.append(rows)
        needs = fixed + each * rows
        return Compiled("", 100, 0, needs, 0, 1.0, refusal="too large" if 100 + needs > limit else "")

    return compile_step


@pytest.mark.parametrize(("fixed", "each", "given"), [(500, 50, 2), (500, 50, 40), (0, 300, 8), (900, 10, 1)])
def test_the_largest_batch_is_found_by_few_compiles(monkeypatch, fixed, each, given):
    compiles: list[int] = []
    limit = 1000
    stub = programs(fixed, each, limit, compiles)
    monkeypatch.setattr(search, "compile_step", stub)
    config = config_of()
    config = replace(config, stages=(replace(config.stages[0], batch_size=4 * given),))
    mesh = make_mesh(config.mesh)
    first = stub(config, 0, mesh, {})
    compiles.clear()
    estimate = largest_batch(config, 0, mesh, first, limit, {}, compiling=False)
    most = max((limit - 100 - fixed) // each, 0)
    assert not compiles
    assert estimate.rows <= max(4 * most, 4 * given) or first.refusal
    found = largest_batch(config, 0, mesh, first, limit, {}, compiling=True)
    assert found.rows == 4 * most
    assert found.confirmed
    assert len(compiles) == found.compiles <= 3
