"""Times of a step from counts by hand."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from rnope_jax import flops
from rnope_jax.planning.collectives import Collective
from rnope_jax.planning.context_traffic import context_traffic
from rnope_jax.planning.hlo import Source
from rnope_jax.planning.network import Network
from rnope_jax.planning.roofline import BETWEEN_SLICES, recomputed_flops, roofline
from rnope_jax.planning.topology import parse
from tests.helpers import tiny_config, tiny_model


def collective(
    kind: str, axes: tuple[str, ...], groups: np.ndarray, sent: int, times: int, line: str = "", function: str = ""
) -> Collective:
    return Collective(kind, axes, groups.shape[1], sent, times, "x", Source(line, function), groups)


def two_slices() -> tuple:
    topology = parse("v5p:2x2x1", slices=2)
    places = [SimpleNamespace(coords=(*c, 0), slice_index=s) for s in (0, 1) for c in np.ndindex(2, 2)]
    return topology, Network(topology, places)


def test_what_is_computed_again():
    model = tiny_model(remat="none")
    tokens = [16, 8]
    head = 2 * 24 * model.vocab_size * model.d_model
    matrices = 2 * 24 * model.num_layers * flops.layer_matrix_parameters(model)
    attention = flops.forward_flops(model, tokens) - head - matrices
    assert recomputed_flops(model, tokens) == head + attention // 2
    assert recomputed_flops(replace(model, remat="attention"), tokens) == head + matrices + attention // 2
    for remat in ("full", "sequential"):
        whole = head + matrices + attention + attention // 2
        assert recomputed_flops(replace(model, remat=remat), tokens) == whole


def test_times_and_what_binds():
    config, (topology, network) = tiny_config(), two_slices()
    chip = topology.chip
    within = np.array([[0, 1, 2, 3], [4, 5, 6, 7]])
    across = np.array([[i, i + 4] for i in range(4)])
    found = [
        collective("all-gather", ("fsdp",), within, 1_000_000, 3),
        collective("all-reduce", ("data",), across, 500_000, 2),
    ]
    times = roofline(config, 0, topology, network, found, traffic=1000)
    stage = config.stages[0]
    model_flops = flops.training_flops(config.model, [stage.sequence_length] * stage.batch_size)
    assert times.model_flops == model_flops
    assert times.compute == pytest.approx((model_flops + times.recomputed_flops) / (8 * chip.flops))
    assert times.memory == pytest.approx(1000 / chip.hbm_bandwidth)
    # Two dimensions of two chips each, which do not close a ring.
    assert times.links["fsdp"] == pytest.approx(3_000_000 / (2 * chip.link_bandwidth))
    assert times.links[BETWEEN_SLICES] == pytest.approx(1_000_000 / chip.dcn_bandwidth)
    assert times.bound == BETWEEN_SLICES
    assert times.seconds == times.links[BETWEEN_SLICES]
    assert times.sequential == pytest.approx(max(times.compute, times.memory) + sum(times.links.values()))
    tokens = stage.sequence_length * stage.batch_size
    assert times.tokens_per_second_per_chip == pytest.approx(tokens / times.seconds / 8)


def test_context_parallelism_next_to_gathering_everywhere():
    config = tiny_config()  # five layers: window, full, window, full, window
    mesh = SimpleNamespace(shape={"data": 1, "fsdp": 1, "context": 8, "tensor": 1}, size=8)
    ring = np.arange(8)[None]
    around = np.stack([np.arange(8), np.roll(np.arange(8), -1)], 1)
    along = around[:-1]  # the first chunk gets no halo
    found = [
        collective("collective-permute", ("context",), along, 100, 8, "attention/context.py:123 ppermute", "_send"),
        collective("all-gather", ("context",), ring, 7000, 4, "attention/context.py:147 all_gather", "_all_gather"),
        collective(
            "collective-permute", ("context",), around, 1000, 14, "attention/context.py:190 ppermute", "_ring_sum"
        ),
        collective("all-gather", ("context",), ring, 9999, 4, "model/linear.py:26 dot_general", "project"),
    ]
    traffic = context_traffic(config, 0, mesh, found)
    assert (traffic.halos, traffic.gathers) == (700, 42_000)
    assert traffic.gathered_everywhere == 42_000 // 2 * 5
    assert traffic.ratio == pytest.approx(42_700 / 105_000)
    mesh.shape["context"] = 1
    assert context_traffic(config, 0, mesh, found) is None
