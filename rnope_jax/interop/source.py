"""Where a model comes from: a run of ours, or a directory of Hugging Face files."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rnope_jax.checkpoint import saved_steps, saved_weights
from rnope_jax.config import Config, ModelConfig
from rnope_jax.errors import UserError
from rnope_jax.interop.directory import CONFIG, CONFIG_LIMIT, open_directory
from rnope_jax.interop.names import Naming, Tensor, tensors
from rnope_jax.interop.published import WindowConvention
from rnope_jax.interop.safetensors import Planned
from rnope_jax.interop.tokenizer_files import check_tokenizer
from rnope_jax.interop.untrusted import read_json
from rnope_jax.run import Run
from rnope_jax.weights import Weights

#: Longest row of published weights that do not say it; what transformers takes.
_CONTEXT = 8192

#: Bytes of a parameter that are held at a time while it is written to a file.
_PIECE = 256 * 2**20


@dataclass(frozen=True)
class Source:
    """A model with its weights, wherever they lie."""

    path: Path
    model: ModelConfig
    weights: Weights
    step: int
    """Training steps that the weights have seen here; 0 for weights from elsewhere."""
    context: int
    """Longest row that the model was trained on."""
    tokenizer: Path | None
    """Directory with tokenizer.json, if there is one."""
    published: dict[str, Any]
    """The config.json with which the weights came, empty for a model that began here."""
    config: Config | None
    """The configuration, for a run."""


def open_source(
    path: Path, step: int | None = None, convention: WindowConvention = "transformers", *, verify: bool = True
) -> Source:
    """Opens a run, or a directory of Hugging Face files.

    Args:
      path: the directory.
      step: of which checkpoint; None takes the newest that is whole, 0 the weights that were imported.
      convention: how `sliding_window` of Hugging Face files is meant.
      verify: compares the files of a checkpoint with its integrity file before anything is read.

    Raises:
      UserError: if it is neither, or what is asked for is not there.
    """
    if not path.is_dir():
        fact = "is not a directory" if path.exists() else "does not exist"
        raise UserError(f"{path} {fact}; give a run directory, or one with Hugging Face files")
    if not (path / CONFIG).exists():
        raise UserError(
            f"{path}: no {CONFIG} in it, so neither a run nor a directory of Hugging Face files; "
            "give one that train.py, rnope import or an export has made"
        )
    if not {"model_type", "architectures"} & set(read_json(path, CONFIG, CONFIG_LIMIT)):
        return _open_run(Run(path), step, verify)
    if step is not None:
        raise UserError(f"step = {step}: {path} holds Hugging Face files, which have no steps")
    directory = open_directory(path, convention)
    tokenizer = path if (path / "tokenizer.json").exists() else None
    if tokenizer:
        check_tokenizer(path, directory.model.vocab_size)
    context = directory.config.get("max_position_embeddings", _CONTEXT)
    return Source(path, directory.model, directory.weights, 0, context, tokenizer, directory.config, None)


def _open_run(run: Run, step: int | None, verify: bool) -> Source:
    config = run.config
    tokenizer = run.tokenizer if run.tokenizer.exists() else None
    published = read_json(run.imported, CONFIG, CONFIG_LIMIT) if run.imported.exists() else {}
    context = published.get("max_position_embeddings", _CONTEXT) if published else 0
    if published and (step == 0 or (step is None and not saved_steps(run.checkpoints))):
        imported = open_directory(run.imported, config.init.window_convention)
        return Source(run.path, config.model, imported.weights, 0, context, tokenizer, published, config)
    saved = saved_weights(run.checkpoints, step, verify=verify)
    trained = config.stages[: config.stage_at(saved.step - 1) + 1]
    context = max(context, *(stage.sequence_length for stage in trained))
    return Source(run.path, config.model_after(saved.step), saved, saved.step, context, tokenizer, published, config)


def planned(source: Source, naming: Naming, dtype: np.dtype | None) -> list[Planned]:
    """The tensors of a model under the names of another format, ready to be written.

    Args:
      source: the model.
      naming: the names.
      dtype: type in the file; None keeps the type of each tensor.
    """
    return [_planned(source.weights, tensor, dtype) for tensor in tensors(source.model, naming)]


def _planned(weights: Weights, tensor: Tensor, dtype: np.dtype | None) -> Planned:
    kept = dtype or weights.dtype(tensor.parameter, tensor.layer)
    return Planned(tensor.name, kept, tensor.shape, partial(_values, weights, tensor, kept))


def _values(weights: Weights, tensor: Tensor, dtype: np.dtype) -> Iterator[np.ndarray]:
    """A tensor's values in its own order, in pieces along its first axis."""
    outer = tensor.axes[0]
    count = tensor.dims[outer]
    rows = max(1, _PIECE // (4 * max(1, tensor.size // count)))
    stack = () if tensor.layer is None else (slice(tensor.layer, tensor.layer + 1),)
    for start in range(0, count, rows):
        index = [slice(None)] * len(tensor.dims)
        index[outer] = slice(start, min(start + rows, count))
        values = weights.read(tensor.parameter, (*stack, *index))
        yield tensor.theirs(values[0] if stack else values).astype(dtype, copy=False)
