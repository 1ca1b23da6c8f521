"""Models of Hugging Face transformers, and their weights under our names."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

# Without these there is nothing to compare with; every test of this directory imports this file.
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from rnope_jax.config import ModelConfig  # noqa: E402
from rnope_jax.model import Params, bind  # noqa: E402
from tests.helpers import assert_close, assert_close_by_name, pack  # noqa: E402

VOCAB = 61
#: Never used as an input: transformers gives its embedding no gradient.
PAD = VOCAB - 1


def make(config: ModelConfig, class_name: str = "Cohere2") -> Any:
    """A transformers model of this shape with random weights under which every part matters."""
    windows = {kind.window for kind in config.pattern} - {None}
    kinds = config.layer_kinds
    options: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "intermediate_size": config.d_ff,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "logit_scale": config.logit_scale,
        "layer_norm_eps": config.norm_eps,
        "max_position_embeddings": 256,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": next((kind.rope_theta for kind in kinds if kind.rope_theta), 10_000.0),
        },
        **{"pad_token_id": PAD, "bos_token_id": 1, "eos_token_id": 2, "attn_implementation": "eager"},
    }
    if class_name == "Cohere2":
        # Its RoPE layers are its window layers; a window as long as the context makes them full.
        options["sliding_window"] = windows.pop() if windows else 256
        options["layer_types"] = [
            "full_attention" if kind.rope_theta is None else "sliding_attention" for kind in kinds
        ]
        assert config.head_dim * config.num_heads == config.d_model
    else:
        options["use_qk_norm"] = config.pattern[0].qk_norm
    settings = getattr(transformers, f"{class_name}Config")(**options)
    model = getattr(transformers, f"{class_name}ForCausalLM")(settings).train()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.copy_(1 + 0.3 * torch.randn(weight.shape, generator=generator))
            else:
                spread = 0.5 if "embed" in name else 1.5 / weight.shape[1] ** 0.5
                weight.copy_(spread * torch.randn(weight.shape, generator=generator))
    return model


def ours(config: ModelConfig, tensors: Mapping[str, Any]) -> Params:
    """Weights, or gradients, under our names and in our shapes."""
    arrays = {name: tensor.detach().numpy() for name, tensor in tensors.items()}
    width, dim = config.d_model, config.head_dim

    def heads(weight: np.ndarray) -> np.ndarray:
        return weight.T.reshape(width, -1, dim)

    def layer(number: int) -> dict[str, np.ndarray]:
        prefix = f"model.layers.{number}."
        own = {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}
        result = {
            "attention.query": heads(own.pop("self_attn.q_proj.weight")),
            "attention.key": heads(own.pop("self_attn.k_proj.weight")),
            "attention.value": heads(own.pop("self_attn.v_proj.weight")),
            "attention.output": own.pop("self_attn.o_proj.weight").T.reshape(-1, dim, width),
            "mlp.gate": own.pop("mlp.gate_proj.weight").T,
            "mlp.up": own.pop("mlp.up_proj.weight").T,
            "mlp.down": own.pop("mlp.down_proj.weight").T,
            "norm.scale": own.pop("input_layernorm.weight"),
        }
        for name, other in (("query_norm", "q_norm"), ("key_norm", "k_norm")):
            if f"self_attn.{other}.weight" in own:
                result[f"attention.{name}.scale"] = own.pop(f"self_attn.{other}.weight")
        assert not own, f"left over: {list(own)}"
        return result

    layers = [layer(number) for number in range(config.num_layers)]
    params = {"embedding": arrays["model.embed_tokens.weight"], "norm.scale": arrays["model.norm.weight"]}
    slots = len(config.pattern)
    for slot in range(slots if config.num_periods else 0):
        stack = layers[slot : config.num_periods * slots : slots]
        params |= {f"periods.{slot}.{name}": np.stack([x[name] for x in stack]) for name in stack[0]}
    for i, last in enumerate(layers[config.num_periods * slots :]):
        params |= {f"remainder.{i}.{name}": value for name, value in last.items()}
    return {name: jnp.asarray(value) for name, value in params.items()}


def check(
    config: ModelConfig, *, class_name: str = "Cohere2", length: int = 64, documents: tuple | None = None
) -> None:
    """Asserts that logits, loss and the gradient of every parameter equal those of transformers.

    `documents`, the lengths of each row's documents, makes both sides isolate them.
    """
    theirs = make(config, class_name)
    batch = len(documents) if documents else 2
    tokens = np.random.default_rng(1).integers(0, PAD, (batch, length + 1))
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    rows = {}
    if documents:
        segments, positions = pack(*documents, length=length)
        rows = {"positions": positions, "segment_ids": segments}

    # transformers isolates documents when positions restart, and only without cache and mask.
    position_ids = torch.tensor(np.array(rows["positions"])).long() if documents else None
    logits = theirs(
        input_ids=torch.tensor(inputs), position_ids=position_ids, attention_mask=None, use_cache=False
    ).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.tensor(targets).flatten())
    loss.backward()

    @jax.jit
    def run(params: Params) -> tuple:
        def mean_loss(params: Params) -> tuple:
            logits = bind(config, params)(inputs, **rows)
            chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], -1)
            return -chosen.mean(), logits

        return jax.value_and_grad(mean_loss, has_aux=True)(params)

    named = dict(theirs.named_parameters())
    (our_loss, our_logits), gradients = run(ours(config, named))
    assert_close(our_logits, logits.detach().numpy(), 1e-4, "logits")
    assert_close(our_loss, loss.detach().numpy(), 1e-5, "loss")
    assert_close_by_name(gradients, ours(config, {name: p.grad for name, p in named.items()}), 1e-4)
