"""Loss on held-out text, in nats per token and in bits per byte."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from rnope_jax.data import Batch, Tokens, TokenStore
from rnope_jax.data.store import predicted
from rnope_jax.model import Params
from rnope_jax.training.step import EvaluationStep


@dataclass(frozen=True)
class HeldOutLoss:
    """How well a model predicts text that it has not seen."""

    nats_per_token: float
    bits_per_byte: float
    """Comparable across tokenizers, and with compressors."""
    tokens: int
    """Tokens that were predicted."""


def held_out_loss(
    step: EvaluationStep,
    params: Params,
    batches: Iterable[Batch],
    store: Tokens,
    stopping: Callable[[], bool] = lambda: False,
) -> HeldOutLoss | None:
    """Mean loss over batches of `store`, which are on the devices; None if `stopping` came true on the way.

    Every byte of the text belongs to a predicted token (end tokens are predicted on top). Of a part
    of the text, the number of bytes is taken from its share of the tokens.
    """
    nll = weight = 0.0
    for batch in batches:
        if stopping():
            return None
        sums = step(params, batch)
        nll, weight = nll + float(sums.nll), weight + float(sums.weight)
    assert store.text_bytes is not None  # known of everything that is held out
    text_bytes = store.text_bytes * weight / predicted(store)
    return HeldOutLoss(nll / weight, nll / math.log(2) / text_bytes, int(weight))


def xz_bits_per_byte(store: Tokens) -> float | None:
    """What `xz -9` needs for the same text; None where it was not measured."""
    if not isinstance(store, TokenStore) or store.index.xz_bytes is None:
        return None
    return 8 * store.index.xz_bytes / store.index.text_bytes
