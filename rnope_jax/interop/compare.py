"""A process that computes the logits of an export twice, with our model and with transformers."""

import inspect
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rnope_jax import model
from rnope_jax.data import Tokenizer, tokenizer
from rnope_jax.interop.source import Source, open_source
from rnope_jax.weights import DTYPES, Index, Weights, place

_POSITIONS = 128

_TEXTS = (
    "def main(argument):\n    return 12345\n",
    "Rope to NoPE and back again.",
    "  naïve — 東京 \N{ROCKET} tokens\t\n",
)


class _Rounded:
    """Weights as they are after a round through a smaller type."""

    def __init__(self, weights: Weights, dtype: np.dtype, kept: str | None = None):
        """`kept` ends the names of weights that are not rounded."""
        self._weights, self._dtype, self._kept = weights, dtype, kept

    def dtype(self, name: str, layer: int | None = None) -> np.dtype:
        return self._dtype

    def read(self, name: str, index: Index = ()) -> np.ndarray:
        values = self._weights.read(name, index)
        return values if self._kept and name.endswith(self._kept) else values.astype(self._dtype)


def main(ask: Path, answer: Path) -> None:
    """Reads what to compare, writes how much it differs."""
    task = json.loads(ask.read_text())
    source = open_source(Path(task["source"]), task["step"], verify=False)  # the export has just done it
    tokens = np.random.default_rng(0).integers(0, source.model.vocab_size, (1, task["length"]))
    positions = np.unique(np.linspace(0, task["length"] - 1, _POSITIONS).astype(int))
    is_gguf = task["program"] == "llama.cpp"
    kept = ".scale" if is_gguf else None  # norms stay as they are there
    mine = _ours(source, task["dtype"] and DTYPES[task["dtype"]], kept, tokens, positions)
    made = Path(task["made"])
    found = (
        _llama_cpp(made, tokens, positions) if is_gguf else _transformers(made, task["extra_keys"], tokens, positions)
    )
    error = float(np.abs(mine - found.logits).max() / np.abs(mine).max())
    text = None
    if source.tokenizer:
        own = tokenizer.load(source.tokenizer)
        text = next((text for text in _TEXTS if not _same(own, text, found.encode(text), task["start"])), None)
    answer.write_text(json.dumps({"error": error, "version": found.version, "text": text}))


def _same(own: Tokenizer, text: str, found: list[int], start: bool) -> bool:
    """Whether a text has the tokens that training gave it, the start token in front (which may be missing)."""
    expected = own.encode(text)
    return found == [own.bos_id, *expected] or (not start and found == expected)


def _ours(
    source: Source, dtype: np.dtype | None, kept: str | None, tokens: np.ndarray, positions: np.ndarray
) -> np.ndarray:
    """Logits [positions, vocab_size] in float32, with the portable attention."""
    config = replace(source.model, compute_dtype="float32", attention="blockwise", remat="none")
    weights = source.weights if dtype is None else _Rounded(source.weights, dtype, kept)
    params = place(weights, config, jax.sharding.SingleDeviceSharding(jax.devices()[0]))

    @jax.jit
    def run(params: model.Params, tokens: jax.Array) -> jax.Array:
        bound = model.bind(config, params)
        return bound.logits(bound.hidden(tokens)[:, positions])

    return np.asarray(run(params, tokens))[0]


@dataclass(frozen=True)
class Found:
    """What another program makes of an export."""

    logits: np.ndarray
    """[positions, vocab_size]."""
    version: str
    encode: Callable[[str], list[int]]


def _transformers(path: Path, extra_keys: int, tokens: np.ndarray, positions: np.ndarray) -> Found:
    import torch
    import transformers

    config = transformers.AutoConfig.from_pretrained(path)
    if extra_keys:
        config.sliding_window += extra_keys
    name = "dtype" if int(transformers.__version__.split(".")[0]) >= 5 else "torch_dtype"
    theirs: Any = transformers.AutoModelForCausalLM.from_pretrained(path, config=config, **{name: torch.float32}).eval()
    chosen = {}
    if "logits_to_keep" in inspect.signature(theirs.forward).parameters:
        chosen = {"logits_to_keep": torch.tensor(positions)}
    with torch.no_grad():
        logits = theirs(input_ids=torch.tensor(tokens), use_cache=False, **chosen).logits[0].float().numpy()
    logits = logits if chosen else logits[positions]

    def encode(text: str) -> list[int]:
        return transformers.AutoTokenizer.from_pretrained(path)(text)["input_ids"]

    return Found(logits, transformers.__version__, encode)


def _llama_cpp(path: Path, tokens: np.ndarray, positions: np.ndarray) -> Found:
    import llama_cpp

    theirs = llama_cpp.Llama(str(path), n_ctx=tokens.shape[1], logits_all=True, verbose=False, n_gpu_layers=0)
    theirs.eval(tokens[0].tolist())
    logits = np.array(theirs.scores[positions])

    def encode(text: str) -> list[int]:
        return theirs.tokenize(text.encode(), add_bos=True, special=False)

    return Found(logits, llama_cpp.__version__, encode)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
