"""Hugging Face directories written by hand, so that every byte of them can be wrong."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

CODES = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}

#: Keys that every generation writes, for a tiny model: two layers, the first with a window.
SHAPE = {
    "vocab_size": 270,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


def random_tensors(config: Mapping[str, Any], code: str = "F32", seed: int = 0) -> dict[str, np.ndarray]:
    """The tensors that a config.json asks for."""
    rng = np.random.default_rng(seed)
    width, hidden, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    groups, dim = config.get("num_key_value_heads", heads), config.get("head_dim", width // heads)
    layer = {
        "input_layernorm": (width,),
        "mlp.down_proj": (width, hidden),
        "mlp.gate_proj": (hidden, width),
        "mlp.up_proj": (hidden, width),
        "self_attn.q_proj": (heads * dim, width),
        "self_attn.k_proj": (groups * dim, width),
        "self_attn.v_proj": (groups * dim, width),
        "self_attn.o_proj": (width, heads * dim),
    }
    if config.get("use_qk_norm"):
        layer |= {"self_attn.q_norm": (heads, dim), "self_attn.k_norm": (groups, dim)}
    shapes = {"model.embed_tokens": (config["vocab_size"], width), "model.norm": (width,)}
    for number in range(config["num_hidden_layers"]):
        shapes |= {f"model.layers.{number}.{name}": shape for name, shape in layer.items()}
    return {f"{name}.weight": rng.normal(0.5, 1, shape).astype(CODES[code]) for name, shape in shapes.items()}


def header_of(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The header of a file with these tensors, one after the other."""
    codes = {np.dtype(dtype): code for code, dtype in CODES.items()}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, value in tensors.items():
        start, end = end, end + value.nbytes
        header[name] = {"dtype": codes[value.dtype], "shape": list(value.shape), "data_offsets": [start, end]}
    return header


def write_file(path: Path, tensors: Mapping[str, np.ndarray], pad: int = 8) -> None:
    """A safetensors file; with `pad` 1, values begin at any byte."""
    text = json.dumps(header_of(tensors)).encode()
    write_raw(path, text + b" " * (-len(text) % pad), b"".join(value.tobytes() for value in tensors.values()))


def write_raw(path: Path, header: bytes, values: bytes, length: int | None = None) -> None:
    """A file of these parts; `length` is the lie about the header's."""
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + values)


def read_raw(path: Path) -> tuple[dict[str, Any], bytes]:
    """Header and values of a file."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """The tensors of every file in a directory."""
    found = {}
    for file in sorted(path.glob("*.safetensors")):
        header, values = read_raw(file)
        header.pop("__metadata__", None)
        for name, entry in header.items():
            start, end = entry["data_offsets"]
            found[name] = np.frombuffer(values[start:end], CODES[entry["dtype"]]).reshape(entry["shape"])
    return found


def write_directory(
    path: Path, config: Mapping[str, Any], tensors: Mapping[str, np.ndarray] | None = None, shards: int = 1
) -> Path:
    """config.json and weights, in one file or in several with their index."""
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(config, indent=2))
    tensors = random_tensors(config) if tensors is None else tensors
    if shards == 1:
        write_file(path / "model.safetensors", tensors)
        return path
    places = {}
    for number in range(shards):
        name = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        part = {tensor: value for i, (tensor, value) in enumerate(tensors.items()) if i % shards == number}
        write_file(path / name, part)
        places |= dict.fromkeys(part, name)
    total = sum(value.nbytes for value in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    return path
