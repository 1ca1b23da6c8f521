"""A directory of Hugging Face files: checked as a whole, then read as the parameters of a model."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rnope_jax.config import ModelConfig
from rnope_jax.errors import UserError
from rnope_jax.interop import safetensors
from rnope_jax.interop.names import HUGGING_FACE, Tensor, tensors
from rnope_jax.interop.published import WindowConvention, read_model
from rnope_jax.interop.safetensors import Stored
from rnope_jax.interop.untrusted import quoted, read_json
from rnope_jax.weights import Index

CONFIG = "config.json"

#: Most bytes that are read; published files have a hundredth of it.
CONFIG_LIMIT = 4 * 2**20
_INDEX_LIMIT = 8 * 2**20

#: Far above any model; what looks for the period of the layers takes the square of it.
_MOST_LAYERS = 1024

_LAYER = re.compile(r"model\.layers\.([0-9]{1,6})\.")
_HEAD = "lm_head.weight"

#: Bytes that are looked at at once.
_PIECE = 64 * 2**20


@dataclass(frozen=True)
class FileWeights:
    """Parameters in safetensors files, as `weights.Weights`."""

    tensors: Mapping[str, tuple[Tensor, ...]]
    """By parameter: its layers in order, or the one tensor that it is."""
    stored: Mapping[str, Stored]

    def dtype(self, name: str, layer: int | None = None) -> np.dtype:
        """The type of a parameter, or of one layer of it."""
        return self.stored[self.tensors[name][layer or 0].name].dtype

    def read(self, name: str, index: Index = ()) -> np.ndarray:
        """A piece of a parameter, or all of it."""
        layers = self.tensors[name]
        if layers[0].layer is None:
            return np.asarray(self._values(layers[0])[index])
        chosen = layers[index[0]] if index else layers
        parts = [self._values(tensor)[tuple(index[1:])] for tensor in chosen]
        if len({part.dtype for part in parts}) > 1:  # numpy knows no type that holds float16 and bfloat16
            parts = [part.astype(np.float32) for part in parts]
        return np.stack(parts)

    def _values(self, tensor: Tensor) -> np.ndarray:
        return tensor.ours(self.stored[tensor.name].values())


@dataclass(frozen=True)
class Directory:
    """A model in Hugging Face files."""

    path: Path
    config: dict[str, Any]
    """config.json as it stands."""
    model: ModelConfig
    weights: FileWeights


def open_directory(path: Path, convention: WindowConvention = "transformers") -> Directory:
    """Opens a directory after every check that does not need the values of weights.

    Args:
      path: it may come from anywhere: nothing in it is executed or unpickled, and nothing outside it is opened.
      convention: how `sliding_window` is meant.

    Raises:
      UserError: naming the file and the fact, if anything is not as it must be.
    """
    if not path.is_dir():
        raise UserError(f"{path}: not a directory; give the one that holds {CONFIG}")
    if not (path / CONFIG).exists():
        raise UserError(f"{path}: there is no {CONFIG} in it; give the directory that holds it")
    config = read_json(path, CONFIG, CONFIG_LIMIT)
    stored = _stored(path)
    # Layers are counted before the configuration is believed: a lie must not make us list billions.
    layers = len({found[1] for name in stored if (found := _LAYER.match(name))})
    if layers > _MOST_LAYERS:
        raise UserError(f"{path}: {layers} layers are over the limit of {_MOST_LAYERS}")
    if (claimed := config.get("num_hidden_layers", 40)) != layers:
        raise UserError(f"{path / CONFIG}: num_hidden_layers = {quoted(claimed)}, but the files hold {layers}")
    model = read_model(path / CONFIG, config, convention)
    _check_width(path, model, stored)
    expected = tensors(model, HUGGING_FACE)
    _check_tensors(path, expected, stored)
    by_parameter: dict[str, list[Tensor]] = {}
    for tensor in expected:
        by_parameter.setdefault(tensor.parameter, []).append(tensor)
    kept = {tensor.name: stored[tensor.name] for tensor in expected}
    weights = FileWeights({name: tuple(parts) for name, parts in by_parameter.items()}, kept)
    return Directory(path, config, model, weights)


def _stored(path: Path) -> dict[str, Stored]:
    """Every tensor in the directory's safetensors files."""
    single, index = (path / name for name in (safetensors.SINGLE, safetensors.INDEX))
    if single.exists() and index.exists():
        raise UserError(f"{path}: holds both {single.name} and {index.name}; which is meant is not clear: remove one")
    if single.exists() or single.is_symlink():
        return safetensors.read_header(path, single.name)
    if not index.exists():
        others = sorted(file.name for file in path.iterdir() if file.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl"))
        pickles = f" ({quoted(others[0])} may hold pickled code, and is not opened)" if others else ""
        raise UserError(f"{path}: there is neither {single.name} nor {index.name} in it{pickles}")
    places = read_json(path, index.name, _INDEX_LIMIT).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise UserError(f"{index}: weight_map must map tensors to files")
    files = dict.fromkeys(places.values())
    if wrong := [name for name in files if not name.endswith(".safetensors")]:
        raise UserError(f"{index}: {quoted(wrong[0])} is not a safetensors file")
    found: dict[str, Stored] = {}
    for name in files:
        for tensor, where in safetensors.read_header(path, name).items():
            if tensor in found:
                raise UserError(f"{where.file}: tensor {quoted(tensor)} is in {found[tensor].file.name} too")
            if places.get(tensor) != name:
                raise UserError(f"{where.file}: tensor {quoted(tensor)} is not there according to {index.name}")
            found[tensor] = where
    if missing := [tensor for tensor in places if tensor not in found]:
        raise UserError(f"{path / places[missing[0]]}: tensor {quoted(missing[0])} of {index.name} is not there")
    return found


def _check_width(path: Path, model: ModelConfig, stored: Mapping[str, Stored]) -> None:
    """Compares the sizes that everything follows from with one layer, before shapes are derived from them."""
    attention = "model.layers.0.self_attn"
    sizes = {
        "model.embed_tokens.weight": (model.vocab_size, model.d_model),
        "model.layers.0.mlp.gate_proj.weight": (model.d_ff, model.d_model),
        f"{attention}.q_proj.weight": (model.num_heads * model.head_dim, model.d_model),
        f"{attention}.k_proj.weight": (model.num_kv_heads * model.head_dim, model.d_model),
    }
    for name, shape in sizes.items():
        _check_shape(path, name, shape, stored)


def _check_shape(path: Path, name: str, shape: tuple[int, ...], stored: Mapping[str, Stored]) -> None:
    if name not in stored:
        raise UserError(f"{path}: tensor {name} is missing")
    if stored[name].shape != shape:
        raise UserError(
            f"{stored[name].file}: tensor {name} has the shape {quoted(stored[name].shape)}; "
            f"{CONFIG} asks for {quoted(shape)}"
        )


def _check_tensors(path: Path, expected: list[Tensor], stored: Mapping[str, Stored]) -> None:
    for tensor in expected:
        _check_shape(path, tensor.name, tensor.shape, stored)
    names = {tensor.name for tensor in expected}
    for name, extra in stored.items():
        if name in names:
            continue
        if name == _HEAD:
            embedding = stored[HUGGING_FACE.embedding]
            if (extra.shape, extra.dtype) != (embedding.shape, embedding.dtype) or not all(
                np.array_equal(*pair) for pair in zip(_bits(extra), _bits(embedding), strict=True)
            ):
                raise UserError(f"{extra.file}: {_HEAD} differs from the embedding; only tied models can be imported")
        elif name.endswith(".bias") and f"{name.removesuffix('.bias')}.weight" in stored:
            if any(piece.any() for piece in pieces(extra.values())):
                raise UserError(f"{extra.file}: {quoted(name)} is not zero; only models without biases can be imported")
        else:
            raise UserError(f"{extra.file}: tensor {quoted(name)} belongs to no parameter of this architecture")


def _bits(stored: Stored) -> Iterator[np.ndarray]:
    return (piece.view(np.uint8) for piece in pieces(stored.values()))


def pieces(values: np.ndarray) -> Iterator[np.ndarray]:
    """Rows of an array, no more at a time than fit into memory anywhere."""
    if not values.ndim:
        yield values
        return
    rows = max(1, _PIECE // max(1, values.nbytes // max(1, len(values))))
    for start in range(0, len(values), rows):
        yield values[start : start + rows]
