"""A model as decoding runs it: every layer for itself or in a scan, weights in the type of the products.

Decoding reads each weight once per token, so a copy of one costs as much as its use. A scan over
stacked weights copies each layer's part out of the stack, except on TPU, where the product reads it
in place; there the scan keeps compile time from growing with depth. Weights that are wider than the
activations would be cast anew at each token.
"""

from dataclasses import replace
from typing import Literal

import jax

from rnope_jax.attention.device import target
from rnope_jax.config import ModelConfig
from rnope_jax.model import Params, describe
from rnope_jax.weights import DTYPES, Weights, multiplied, place, places, rearranged

#: Types in which a model can be computed.
ComputeDtype = Literal["float32", "bfloat16"]


def layout(config: ModelConfig) -> ModelConfig:
    """The same model with its layers as this platform decodes them."""
    return config if target()[0] == "tpu" else config.unrolled


def arrange(config: ModelConfig, params: Params) -> tuple[ModelConfig, Params]:
    """A model and its parameters as decoding runs them; what is so already is not copied."""
    wanted, sources = layout(config), places(config)
    infos, dtype = describe(wanted), DTYPES[config.compute_dtype]
    arranged = {}
    for name, there in places(wanted).items() if wanted != config else ():
        source = sources[name]
        value = params[source.parameter]
        arranged[there.parameter] = value if source.position is None else value[source.position]
    arranged = arranged or params
    return wanted, {
        name: arranged[name].astype(dtype) if multiplied(name, info) else arranged[name] for name, info in infos.items()
    }


def read(weights: Weights, config: ModelConfig, dtype: ComputeDtype | None = None) -> tuple[ModelConfig, Params]:
    """Reads a model as decoding runs it, onto this process's first device.

    Args:
      weights: of the model.
      config: the model.
      dtype: type of weights, activations and cache; None takes that of the model.
    """
    dtype = config.compute_dtype if dtype is None else dtype
    wanted = layout(replace(config, compute_dtype=dtype))
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return wanted, place(rearranged(weights, config, wanted), wanted, device, DTYPES[dtype])
