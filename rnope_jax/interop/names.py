"""Our parameters and the tensors of other formats: which is which, and how their axes lie.

PyTorch keeps a weight as [outputs, inputs] with heads and head dimension in one axis; which of our
axes are outputs and inputs is part of a parameter's declaration, so only names are listed here.
"""

import math
from dataclasses import dataclass

import numpy as np

from rnope_jax.config import ModelConfig
from rnope_jax.model import ParameterInfo, describe


@dataclass(frozen=True)
class Naming:
    """The names that a format gives to parameters; those of a layer hold {layer}."""

    embedding: str
    norm: str
    layer: dict[str, str]
    """By our name inside a block."""


HUGGING_FACE = Naming(
    embedding="model.embed_tokens.weight",
    norm="model.norm.weight",
    layer={
        "norm.scale": "model.layers.{layer}.input_layernorm.weight",
        "attention.query": "model.layers.{layer}.self_attn.q_proj.weight",
        "attention.key": "model.layers.{layer}.self_attn.k_proj.weight",
        "attention.value": "model.layers.{layer}.self_attn.v_proj.weight",
        "attention.output": "model.layers.{layer}.self_attn.o_proj.weight",
        "attention.query_norm.scale": "model.layers.{layer}.self_attn.q_norm.weight",
        "attention.key_norm.scale": "model.layers.{layer}.self_attn.k_norm.weight",
        "mlp.gate": "model.layers.{layer}.mlp.gate_proj.weight",
        "mlp.up": "model.layers.{layer}.mlp.up_proj.weight",
        "mlp.down": "model.layers.{layer}.mlp.down_proj.weight",
    },
)

GGUF = Naming(
    embedding="token_embd.weight",
    norm="output_norm.weight",
    layer={
        "norm.scale": "blk.{layer}.attn_norm.weight",
        "attention.query": "blk.{layer}.attn_q.weight",
        "attention.key": "blk.{layer}.attn_k.weight",
        "attention.value": "blk.{layer}.attn_v.weight",
        "attention.output": "blk.{layer}.attn_output.weight",
        "attention.query_norm.scale": "blk.{layer}.attn_q_norm.weight",
        "attention.key_norm.scale": "blk.{layer}.attn_k_norm.weight",
        "mlp.gate": "blk.{layer}.ffn_gate.weight",
        "mlp.up": "blk.{layer}.ffn_up.weight",
        "mlp.down": "blk.{layer}.ffn_down.weight",
    },
)


@dataclass(frozen=True)
class Tensor:
    """A tensor of another format, and the parameter or the layer of a stacked parameter that it is."""

    name: str
    shape: tuple[int, ...]
    parameter: str
    layer: int | None
    """Position in the parameter's stack, or None if it is not stacked."""
    axes: tuple[int, ...]
    """Our axes, without the stack, in the tensor's order."""
    dims: tuple[int, ...]
    """Our shape, without the stack."""

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    def theirs(self, values: np.ndarray) -> np.ndarray:
        """Our layout to the tensor's; also of a piece along our axis `axes[0]`, its outermost."""
        return values.transpose(self.axes).reshape(-1, *self.shape[1:])

    def ours(self, values: np.ndarray) -> np.ndarray:
        """The tensor's layout to ours; a view, so that a piece of it costs no more than the piece."""
        return values.reshape([self.dims[axis] for axis in self.axes]).transpose(np.argsort(self.axes))


def tensors(config: ModelConfig, naming: Naming) -> list[Tensor]:
    """Every tensor of a model, layer by layer."""
    infos = describe(config)
    period = len(config.pattern)
    found = [_tensor(naming.embedding, "embedding", infos["embedding"], None)]
    for layer in range(config.num_layers):
        scanned = layer < config.num_periods * period
        slot = layer % period if scanned else layer - config.num_periods * period
        prefix = f"{'periods' if scanned else 'remainder'}.{slot}."
        for ours, theirs in naming.layer.items():
            if info := infos.get(prefix + ours):
                position = layer // period if scanned else None
                found.append(_tensor(theirs.format(layer=layer), prefix + ours, info, position))
    return [*found, _tensor(naming.norm, "norm.scale", infos["norm.scale"], None)]


def _tensor(name: str, parameter: str, info: ParameterInfo, layer: int | None) -> Tensor:
    lead = 0 if layer is None else 1
    dims = info.shape[lead:]
    if not info.is_matrix:
        return Tensor(name, dims, parameter, layer, tuple(range(len(dims))), dims)
    groups = [tuple(axis - lead for axis in axes) for axes in (info.output_axes, info.input_axes)]
    shape = tuple(math.prod(dims[axis] for axis in group) for group in groups)
    return Tensor(name, shape, parameter, layer, groups[0] + groups[1], dims)
