"""From the store through loader and step: documents in packed rows are learned as each would be by itself."""

from dataclasses import replace
from functools import cache

import jax
import numpy as np
import pytest

from rnope_jax import model
from rnope_jax.config import LossConfig, SourceConfig, StageConfig
from rnope_jax.data import Batch, Mixture, TokenStore, training_batches
from rnope_jax.training.loss import batch_loss
from rnope_jax.training.optimizer import clip
from rnope_jax.training.state import make_optimizer
from rnope_jax.training.step import to_devices
from tests.data.corpora import documents, make_store
from tests.helpers import assert_close_by_name, tiny_model
from tests.training.steps import first_state, mesh_of, step_config, train_step

LENGTH = 96


class Answers(TokenStore):
    """A store in which every second stretch of seven tokens is a prompt."""

    def counted(self, first, stop):
        return np.arange(first, stop) // 7 % 2 == 1


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    first, second = (
        make_store(tmp_path_factory.mktemp(name), [d for d in documents(40, seed) if 20 < len(d.text) < 90][:14])
        for seed, name in enumerate("ab")
    )
    return {"a": first, "b": second, "answers": Answers(first.directory)}


@pytest.fixture
def stage() -> StageConfig:
    stage = step_config().stages[0]
    return replace(stage, sequence_length=LENGTH, batch_size=4)


def config_of(stage):
    return step_config(model=tiny_model(num_layers=2, vocab_size=300), stages=(stage,))


@cache
def gradient(shape):
    def loss(params, batch):
        sums = batch_loss(model.bind(shape, params), batch, LossConfig())
        return sums.objective, sums

    return jax.jit(jax.grad(loss, has_aux=True))


def alone(store, number: int) -> Batch:
    """One document as the only one of its row, made without any packing."""
    start, stop = [*store.starts, len(store)][number : number + 2]
    tokens = store.read(int(start), int(stop))
    counted = store.counted(int(start), int(stop))
    mask = np.ones(len(tokens), bool) if counted is None else counted
    row = (tokens[:-1], tokens[1:], mask[1:].astype(np.float32), np.arange(len(tokens) - 1), np.ones(len(tokens) - 1))
    pad = LENGTH - len(tokens) + 1
    assert pad >= 0
    return Batch(*(np.pad(x, (0, pad)).astype(np.float32 if i == 2 else np.int32)[None] for i, x in enumerate(row)))


def best_fit(name: str, weight: float = 1.0) -> SourceConfig:
    return SourceConfig(name=name, weight=weight, packing="best_fit")


@pytest.mark.parametrize(
    ("names", "mixture"),
    [
        (["a"], ()),
        (["a"], (best_fit("a"),)),
        (["answers"], (best_fit("answers"),)),
        (["a", "b"], (best_fit("a", 3), best_fit("b", 1))),
        (["a", "b"], (best_fit("a", 3), SourceConfig(name="b", packing="best_fit", sequence_length=LENGTH // 2))),
    ],
    ids=["concat", "best fit", "answers", "mixture", "short and long"],
)
def test_packed_documents_are_learned_as_each_alone(names, mixture, stage, stores):
    """Loss, gradient norm, and the parameters after a step."""
    given = [stores[name] for name in names]
    stage = replace(stage, mixture=mixture)
    if not mixture:  # no row may cut a document, so all of the text is one
        stage = replace(stage, sequence_length=len(given[0]) - 1, batch_size=1)
    mixed = Mixture(stage, given, (0, 0))
    config = config_of(stage)
    mesh = mesh_of()
    batches = training_batches(mixed)
    batch = next(batches)
    batches.close()
    assert batch.segment_ids.max() > 2

    state = first_state(config, mesh)
    params = {name: np.asarray(value) for name, value in state.params.items()}
    with jax.set_mesh(mesh):
        packed, metrics = jax.device_get(train_step(config, 0, mesh)(state, to_devices(batch, mesh)))

    nll = weight = 0.0
    total: dict[str, np.ndarray] = {}
    seen = 0
    for row in range(stage.batch_size):
        source, index = mixed.row(row)
        rows = mixed.sources[source].rows
        for number in rows.documents_of(index):
            gradients, sums = gradient(config.model)(params, alone(rows.store, number))
            nll, weight, seen = nll + float(sums.nll), weight + float(sums.weight), seen + 1
            total = {name: total.get(name, 0.0) + np.asarray(value, np.float64) for name, value in gradients.items()}
    assert seen == sum(int(row.max()) for row in batch.segment_ids)
    assert metrics["tokens"] == weight
    assert metrics["loss"] == pytest.approx(nll / weight, rel=1e-5)
    mean = {name: (value / weight).astype(np.float32) for name, value in total.items()}
    norm = np.sqrt(sum((value.astype(np.float64) ** 2).sum() for value in mean.values()))
    assert metrics["gradient_norm"] == pytest.approx(norm, rel=1e-5)

    optimizer = make_optimizer(config)
    clipped = clip(mean, np.float32(norm), config.optimizer.clip_norm)
    expected, _ = optimizer.update(clipped, optimizer.init(params), params, np.float32(metrics["learning_rate"]))
    moved = {name: np.asarray(expected[name]) - params[name] for name in params}
    assert max(np.abs(value).max() for value in moved.values()) > 1e-3
    assert_close_by_name({name: packed.params[name] - params[name] for name in params}, moved, 2e-3)
