"""From a run to files that PyTorch programs read: transformers, vLLM, llama.cpp's converter."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rnope_jax.errors import UserError
from rnope_jax.files import make_directory
from rnope_jax.interop import safetensors
from rnope_jax.interop.architecture import architecture
from rnope_jax.interop.card import model_card
from rnope_jax.interop.directory import CONFIG
from rnope_jax.interop.names import HUGGING_FACE
from rnope_jax.interop.source import Source, open_source, planned
from rnope_jax.interop.targets import TARGETS, TargetName
from rnope_jax.interop.tokenizer_files import copy_tokenizer, token_ids
from rnope_jax.interop.verify import verify
from rnope_jax.weights import DTYPES

#: Largest file of weights, unless another size is asked for; what transformers writes.
SHARD_BYTES = 5 * 10**9


_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


@dataclass(frozen=True)
class Exported:
    """What an export has made."""

    path: Path
    files: tuple[str, ...]
    """Names of the files of weights."""
    bytes: int
    """Size of the weights."""
    error: float | None
    """Largest difference of a logit from PyTorch's, relative to the largest logit; None if it was not verified."""


def export(
    run: Path,
    out: Path,
    *,
    target: TargetName = "transformers",
    dtype: str | None = None,
    step: int | None = None,
    shard_bytes: int = SHARD_BYTES,
    check: bool = True,
    trust_checkpoint: bool = False,
    report: Callable[[str], None] = print,
) -> Exported:
    """Writes a model as Hugging Face files: weights, config.json, tokenizer, model card.

    Weights go from checkpoint to file piece by piece: memory holds a few hundred megabytes of them at
    a time, whatever the model's size. The directory appears under its name when all of it is
    written and, unless `check` is off, PyTorch has been seen to compute the same logits from it.

    Args:
      run: a run, or a directory of Hugging Face files.
      out: directory to make.
      target: the program that will read it.
      dtype: "float32", "bfloat16" or "float16"; None keeps the type of imported weights and takes the
        type in which a trained model computes.
      step: of which checkpoint; None takes the newest that is whole.
      shard_bytes: largest file of weights.
      check: load the result with PyTorch in another process and compare logits.
      trust_checkpoint: do not compare the files of the checkpoint with its integrity file first.
      report: told what is done.

    Raises:
      UserError: if the model has no such architecture in the target, `out` exists, the disk is too
        small, or PyTorch computes something else.
    """
    if shard_bytes < 1:
        raise UserError(f"shard size = {shard_bytes}: must be at least one byte")
    source = open_source(run, step, verify=not trust_checkpoint)
    keys = architecture(source.model, target)
    kept = export_dtype(source, dtype)
    tensors = planned(source, HUGGING_FACE, kept)
    size = sum(tensor.bytes for tensor in tensors)
    check_room(out, size)
    with make_directory(out) as aside:
        report(f"writing {size / 1e9:.3g} GB of weights to {out}")
        files = safetensors.write(aside, tensors, shard_bytes)
        copied = None
        if source.tokenizer:
            copied = token_ids(copy_tokenizer(source.tokenizer, aside, add_bos=TARGETS[target].add_bos), aside)
        config = _config(source, keys, copied, kept or tensors[0].dtype)
        _write_json(aside / "generation_config.json", _generation(config))
        (aside / "README.md").write_text(model_card(source, target, config), encoding="utf-8")
        _write_json(aside / CONFIG, config)
        error = verify(aside, source, kept, target, report) if check else None
    return Exported(out, tuple(files), size, error)


def export_dtype(source: Source, name: str | None) -> np.dtype | None:
    """The type of all tensors of an export; None if each keeps its own.

    Raises:
      UserError: if there is no type of this name.
    """
    short = {"fp32": "float32", "f32": "float32", "bf16": "bfloat16", "fp16": "float16", "f16": "float16"}
    if name is None:
        untouched = source.published and source.step == 0
        return None if untouched or source.config is None else DTYPES[source.model.compute_dtype]
    if (full := short.get(name, name)) not in DTYPES:
        raise UserError(f"dtype = {name!r}: must be one of {', '.join([*DTYPES, *short])}")
    return DTYPES[full]


def check_room(out: Path, size: int) -> None:
    """Checks that nothing is there and that the disk can hold `size` bytes.

    Raises:
      UserError: otherwise.
    """
    if out.exists() or out.is_symlink():
        raise UserError(f"{out} exists; nothing is overwritten: choose another name or remove it")
    parent = next(path for path in out.absolute().parents if path.exists())
    if (free := shutil.disk_usage(parent).free) < size:
        raise UserError(f"{out}: {size / 1e9:.3g} GB are needed and {free / 1e9:.3g} GB are free there")


def _config(source: Source, keys: dict[str, Any], copied: dict[str, int] | None, dtype: np.dtype) -> dict[str, Any]:
    """The whole config.json: the architecture, and what only the weights' owner can say."""
    if source.published:  # left out means the class's defaults, there as here
        ids = {name: source.published[name] for name in _IDS if name in source.published}
    else:
        ids = dict.fromkeys(_IDS) | (copied or {})
    return {
        **keys,
        "max_position_embeddings": source.context,
        **ids,
        "dtype": dtype.name,
        "torch_dtype": dtype.name,
    }


def _generation(config: dict[str, Any]) -> dict[str, Any]:
    ids = {name: value for name, value in config.items() if name.endswith("_token_id") and value is not None}
    return {"_from_model_config": True, **ids}


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")
