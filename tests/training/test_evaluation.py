"""Bits per byte, computed a second time from the definition."""

import json
import lzma
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnope_jax import model
from rnope_jax.data import held_out_batches
from rnope_jax.training.evaluation import held_out_loss, xz_bits_per_byte
from rnope_jax.training.step import to_devices
from tests.training.steps import evaluation_step, mesh_of


def test_bits_per_byte_are_those_of_the_whole_text(unbroken, corpus):
    """Document by document, each cut where a row ends, with plain logits."""
    trainer, store = unbroken.trainer, unbroken.trainer.corpus.held_out
    config, length = trainer.config, trainer.config.stages[-1].sequence_length
    transformer = model.bind(config.stage_model(1), {k: jnp.asarray(v) for k, v in unbroken.state.params.items()})
    logits = jax.jit(transformer.__call__)
    nll = count = 0
    ends = [*store.starts[1:], len(store)]
    for start, end in zip(store.starts, ends, strict=True):
        place = int(start)
        while place < end - 1:
            stop = min((place // length + 1) * length, end - 1)  # inputs up to the end of the row
            inputs = np.zeros((1, length), np.int32)
            inputs[0, : stop - place] = store.tokens[place:stop]
            targets = store.tokens[place + 1 : stop + 1].astype(int)
            log_p = jax.nn.log_softmax(logits(inputs)[0, : stop - place])
            nll -= float(log_p[np.arange(stop - place), targets].sum())
            count += stop - place
            place = stop
    text_bytes = sum((corpus / name).stat().st_size for name in store.names())
    lines = [json.loads(line) for line in unbroken.run.metrics.read_text().splitlines()]
    (final,) = [line for line in lines if line.get("final")]
    assert count == store.index.tokens - store.index.documents
    assert final["held_out_bits_per_byte"] == pytest.approx(nll / math.log(2) / text_bytes, rel=1e-5)
    assert final["held_out_loss"] == pytest.approx(nll / count, rel=1e-5)


def evaluate(unbroken, batches, stopping=lambda: False):
    trainer = unbroken.trainer
    step = evaluation_step(trainer.config, 1, mesh_of())
    with jax.set_mesh(mesh_of()):
        placed = (batch and to_devices(batch, mesh_of()) for batch in batches)
        return held_out_loss(step, unbroken.state.params, placed, trainer.corpus.held_out, stopping)


def test_the_batch_size_does_not_matter(unbroken):
    store, length = unbroken.trainer.corpus.held_out, 24
    two, three = (evaluate(unbroken, held_out_batches(store, length, size)) for size in (2, 3))
    assert two.tokens == three.tokens == store.index.tokens - store.index.documents
    assert two.nats_per_token == pytest.approx(three.nats_per_token, rel=1e-6)
    assert two.bits_per_byte == pytest.approx(three.bits_per_byte, rel=1e-6)


def test_a_part_of_the_text_has_its_share_of_the_bytes(unbroken):
    store = unbroken.trainer.corpus.held_out
    part = evaluate(unbroken, held_out_batches(store, 24, 2, rows=3))
    whole = evaluate(unbroken, held_out_batches(store, 24, 2))
    assert part.tokens < whole.tokens
    per_token = whole.bits_per_byte / whole.nats_per_token
    assert part.bits_per_byte / part.nats_per_token == pytest.approx(per_token, rel=1e-6)
    assert part.nats_per_token == pytest.approx(whole.nats_per_token, rel=0.2)


def test_an_evaluation_ends_when_a_stop_is_requested(unbroken):

    assert evaluate(unbroken, iter([None]), stopping=lambda: True) is None


def test_xz_is_that_of_all_held_out_bytes_together(unbroken, corpus):
    store = unbroken.trainer.corpus.held_out
    whole = b"".join((corpus / name).read_bytes() for name in store.names())
    assert xz_bits_per_byte(store) == 8 * len(lzma.compress(whole, preset=9)) / len(whole)
    assert xz_bits_per_byte(unbroken.trainer.corpus.train[0].stores[0]) is None
