"""Attention of trained models to probes: mass by part of the text, entropy, weight by position.

Queries are the tokens of question and completion, which is the true one. A probe is read into the
caches in chunks, as a prompt is; only its end is looked at, and the keys are in the caches. So
memory is that of decoding, whatever the length.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from rnope_jax import model
from rnope_jax.attention import AttentionSpec
from rnope_jax.attention.statistics import Statistics, statistics
from rnope_jax.config import ModelConfig
from rnope_jax.evaluation.analysis.kept import Kept
from rnope_jax.evaluation.analysis.probe import BEGIN_TOKENS, NEEDLE, QC, SEGMENTS, Probe
from rnope_jax.inference.generate import prefill, side_by_side
from rnope_jax.layers import LayerKind
from rnope_jax.model import Caches, Params
from rnope_jax.model.cache import LayerCache

#: Most parts into which a text is cut for curves over positions.
BINS = 100

#: Share at the end of a text that curves leave out, as those of the paper do.
TAIL = 0.03

#: The end that is looked at is a power of two long, at least this, so that few lengths are compiled.
_SHORTEST_END = 32


@dataclass(frozen=True)
class Measured:
    """Means over probes of one length and depth, by layer and head."""

    length: int
    depth: float
    kinds: tuple[LayerKind, ...]
    mass: np.ndarray
    """[layers, heads, parts]: as `SEGMENTS`."""
    entropy: np.ndarray
    """[layers, heads]: bits."""
    relative_entropy: np.ndarray
    """[layers, heads]: share of the entropy of even attention to the keys that a query sees."""
    curve: np.ndarray
    """[layers, bins]: mean weight of a key in each bin of positions, over heads."""
    even: float
    """Mass on the fact if all tokens of a text got the same."""


def bin_edges(length: int) -> np.ndarray:
    """Positions where bins begin, and the end of the last; without the first tokens and the last share of them."""
    return np.unique(np.linspace(BEGIN_TOKENS, length - int(TAIL * length), BINS + 1).round().astype(int))


def measure(
    config: ModelConfig, params: Params, probes: Sequence[Probe], depth: float, kept: Kept | None = None
) -> Measured:
    """Runs a model over probes of one length, one after the other.

    Args:
      config: the model.
      params: its parameters.
      probes: all of the same length.
      depth: at which their facts are.
      kept: what was found of each probe is taken from there, and put there; None keeps nothing.
    """
    length = len(probes[0].tokens)
    found = []
    for probe in probes:
        known = kept.find(probe) if kept else None
        if known is None:
            known = jax.device_get(_statistics(config, params, probe))
            if kept:
                kept.add(probe, known)
        found.append(known)
    mean = jax.tree.map(lambda *values: np.mean(values, axis=0, dtype=np.float64), *found)
    widths = np.diff(bin_edges(length))
    mass = mean.mass.reshape(*mean.mass.shape[:2], len(SEGMENTS), len(widths) + 1)
    return Measured(
        length=length,
        depth=depth,
        kinds=config.layer_kinds,
        mass=mass.sum(-1),
        entropy=mean.entropy,
        relative_entropy=mean.relative_entropy,
        curve=mass[..., :-1].sum(2).mean(1) / widths,
        even=float(np.mean([(probe.segments == NEEDLE).mean() for probe in probes])),
    )


def _statistics(config: ModelConfig, params: Params, probe: Probe) -> Statistics:
    """Of one probe, stacked over layers; a group is a part of the text and a bin, the last for what is in none."""
    length = len(probe.tokens)
    end = min(max(_SHORTEST_END, 1 << (probe.questions - 1).bit_length()), length - 1)
    cache, _ = prefill(config, params, side_by_side([probe.tokens[:-end].tolist()]), length)
    positions, edges = np.arange(length, dtype=np.int32), bin_edges(length)
    bins = np.searchsorted(edges, positions, side="right") - 1
    groups = probe.segments * len(edges) + np.where(bins < 0, len(edges) - 1, bins)
    asked = (probe.segments == QC).astype(np.float32)
    arrays = probe.tokens[-end:], positions[-end:], asked[-end:], groups.astype(np.int32)
    return _look(config, len(SEGMENTS) * len(edges), params, *(jnp.asarray(x)[None] for x in arrays), cache)


@partial(jax.jit, static_argnums=(0, 1))
def _look(
    config: ModelConfig,
    num_groups: int,
    params: Params,
    tokens: jax.Array,
    positions: jax.Array,
    asked: jax.Array,
    groups: jax.Array,
    cache: Caches,
) -> Statistics:
    def look(spec: AttentionSpec, q: jax.Array, seen: LayerCache) -> Statistics:
        return statistics(
            q,
            seen.keys,
            spec,
            q_positions=positions,
            k_positions=seen.positions,
            query_weights=asked,
            groups=groups,
            num_groups=num_groups,
        )

    layers = model.bind(config, params).observe(tokens, positions, cache, look)
    return jax.tree.map(lambda *values: jnp.stack(values), *layers)
