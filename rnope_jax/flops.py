"""Exact counts of parameters and floating-point operations, layer kind by layer kind.

A multiply and an add are two operations. Attention counts the query-key pairs that the mask lets
through, so a window layer costs what its window costs. Recomputation (remat) is not counted: these
are model FLOPs. `six_n` is the usual estimate, for comparison.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from rnope_jax.config import ModelConfig
from rnope_jax.layers import LayerKind

#: A training step is one forward and, for each product of it, two backward products.
TRAINING_FACTOR = 3


@dataclass(frozen=True)
class ParameterCount:
    """Numbers of parameters."""

    embedding: int
    """The tied input and output embedding."""
    layers: int
    """All layers, norms included."""
    final_norm: int
    """The norm before the output."""

    @property
    def total(self) -> int:
        """All parameters."""
        return self.embedding + self.layers + self.final_norm


def layer_matrix_parameters(model: ModelConfig) -> int:
    """Parameters of the matrices of one layer; the same for every kind."""
    attention = model.d_model * model.head_dim * 2 * (model.num_heads + model.num_kv_heads)
    return attention + 3 * model.d_model * model.d_ff


def parameters(model: ModelConfig) -> ParameterCount:
    """Counts the parameters of a model."""
    matrices = model.num_layers * layer_matrix_parameters(model)
    qk_norm = (model.num_heads + model.num_kv_heads) * model.head_dim
    norms = sum(model.d_model + (qk_norm if kind.qk_norm else 0) for kind in model.layer_kinds)
    return ParameterCount(model.vocab_size * model.d_model, matrices + norms, model.d_model)


def attention_flops(model: ModelConfig, kind: LayerKind, lengths: Iterable[int]) -> int:
    """Forward FLOPs of scores and weighted values of one layer over documents of these lengths."""
    pairs = sum(kind.attention_pairs(int(length)) for length in lengths)
    return 4 * model.num_heads * model.head_dim * pairs


def forward_flops(model: ModelConfig, lengths: Iterable[int]) -> int:
    """Forward FLOPs over documents of these lengths: products, attention and output logits."""
    lengths = list(lengths)
    matrices = model.num_layers * layer_matrix_parameters(model) + model.vocab_size * model.d_model
    layers = Counter(model.layer_kinds).items()
    attention = sum(count * attention_flops(model, kind, lengths) for kind, count in layers)
    return 2 * matrices * sum(lengths) + attention


def training_flops(model: ModelConfig, lengths: Iterable[int]) -> int:
    """FLOPs of forward and backward over documents of these lengths."""
    return TRAINING_FACTOR * forward_flops(model, lengths)


def six_n(model: ModelConfig, tokens: int) -> int:
    """6 x parameters x tokens, the estimate that ignores attention."""
    return 6 * parameters(model).total * tokens


def document_lengths(segment_ids: np.ndarray) -> np.ndarray:
    """Lengths of the documents in packed rows [B, S]; padding (segment 0) is left out."""
    boundary = np.ones(segment_ids.shape, bool)
    boundary[:, 1:] = segment_ids[:, 1:] != segment_ids[:, :-1]
    starts = np.flatnonzero(boundary)
    lengths = np.diff(np.append(starts, segment_ids.size))
    return lengths[segment_ids.reshape(-1)[starts] != 0]


def cache_bytes(model: ModelConfig, context: int, bytes_per_value: int) -> int:
    """Bytes of keys and values for one sequence of `context` tokens."""
    slots = sum(kind.cache_length(context) for kind in model.layer_kinds)
    return 2 * slots * model.num_kv_heads * model.head_dim * bytes_per_value


def full_twin(model: ModelConfig) -> ModelConfig:
    """The same model with full attention in every layer."""
    return replace(model, pattern=tuple(replace(kind, window=None) for kind in model.pattern))


def full_cache_bytes(model: ModelConfig, context: int, bytes_per_value: int) -> int:
    """What `cache_bytes` would be if every layer attended to the whole prefix."""
    return cache_bytes(full_twin(model), context, bytes_per_value)
