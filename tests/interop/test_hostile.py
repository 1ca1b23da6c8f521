"""Directories that lie: each is refused in one line, in a moment, and nothing is made or touched."""

import contextlib
import hashlib
import json
import math
import os
import random
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from rnope_jax.cli.main import main
from rnope_jax.errors import UserError
from rnope_jax.interop import directory, import_directory, open_source
from tests.interop.files import (
    SHAPE,
    random_tensors,
    read_raw,
    write_directory,
    write_file,
    write_raw,
)
from tests.interop.models import small_tokenizer

CONFIG = {
    "architectures": ["Cohere2ForCausalLM"],
    "model_type": "cohere2",
    **SHAPE,
    "rope_theta": 10_000.0,
    "sliding_window": 6,
    "sliding_window_pattern": 2,
    "logit_scale": 0.25,
    "max_position_embeddings": 64,
}
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
ONE, TWO = (f"model-0000{i}-of-00002.safetensors" for i in (1, 2))
QUERY = "model.layers.1.self_attn.q_proj.weight"
NORM = "model.norm.weight"

#: Bytes that Python and numpy may hold at once. A header may have 8 MiB, and what it holds takes some times that.
MEMORY = 250 * 2**20

#: Where links lead, outside of the directory.
SECRET = "secret"

Damage = Callable[[Path], None]

#: What is done to a valid directory, which file the message must name, and which fact.
CASES: dict[str, tuple[Damage, str, str]] = {}


def case(name: str, file: str, fact: str) -> Callable[[Damage], Damage]:
    def add(damage: Damage) -> Damage:
        assert name not in CASES
        CASES[name] = (damage, file, fact)
        return damage

    return add


def add(name: str, file: str, fact: str, damage: Damage) -> None:
    case(name, file, fact)(damage)


@pytest.fixture(scope="module")
def valid(tmp_path_factory) -> Path:
    path = write_directory(tmp_path_factory.mktemp("valid") / "hf", CONFIG)
    small_tokenizer().save(path / "tokenizer")
    for file in (path / "tokenizer").iterdir():
        file.rename(path / file.name)
    (path / "tokenizer").rmdir()
    return path


def damaged(valid: Path, tmp_path: Path, damage: Damage) -> Path:
    """A copy of the valid directory with one damage, beside a secret."""
    path = tmp_path / "hf"
    shutil.copytree(valid, path)
    outside = tmp_path / SECRET
    shutil.copytree(valid, outside)
    damage(path)
    return path


def tree(root: Path) -> dict[str, str]:
    """What lies where, with a hash of every file; links and special files are not opened."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = f"link to {os.readlink(path)}"
        elif path.is_file():
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest() if path.stat().st_size < 2**26 else "large"
        else:
            found[name] = oct(path.lstat().st_mode)
    return found


@contextlib.contextmanager
def at_most(seconds: float):
    """Ends what hangs, and asserts that it was fast."""

    def late(*_: Any) -> None:
        raise TimeoutError("still at it")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, 150 * seconds)  # the machine may be busy
    start = time.process_time()
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert time.process_time() - start < seconds


def assert_one_line(message: str, root: Path) -> None:
    assert message.isprintable(), message
    assert len(message.replace(str(root), "")) < 400, len(message)


# --- damages ---------------------------------------------------------------------------------------


def config(**changes: Any) -> Damage:
    """Other values in config.json; None takes a key away."""

    def damage(path: Path) -> None:
        data = {name: value for name, value in (CONFIG | changes).items() if value is not ...}
        (path / "config.json").write_text(json.dumps(data))

    return damage


def text_of(file: str, text: str | bytes) -> Damage:
    data = text.encode() if isinstance(text, str) else text

    def damage(path: Path) -> None:
        (path / file).write_bytes(data)

    return damage


def tokenizer_config(**settings: Any) -> Damage:
    return text_of("tokenizer_config.json", json.dumps({"bos_token": "<|bos|>", "eos_token": "<|eos|>", **settings}))


def header(edit: Callable[[dict[str, Any]], Any]) -> Damage:
    """An edited header before the same values."""

    def damage(path: Path) -> None:
        found, values = read_raw(path / WEIGHTS)
        edited = edit(found)
        write_raw(path / WEIGHTS, json.dumps(found if edited is None else edited).encode(), values)

    return damage


def entry(**changes: Any) -> Damage:
    """Another entry of one tensor in the header."""
    return header(lambda found: found[QUERY].update(changes))


def raw_header(text: str | bytes, length: int | None = None) -> Damage:
    data = text.encode() if isinstance(text, str) else text
    return lambda path: write_raw(path / WEIGHTS, data, read_raw(path / WEIGHTS)[1], length)


def weights(edit: Callable[[dict[str, np.ndarray]], Any], **changes: Any) -> Damage:
    """Other tensors."""

    def damage(path: Path) -> None:
        found = random_tensors(CONFIG | changes)
        edited = edit(found)
        config(**changes)(path)
        write_file(path / WEIGHTS, found if edited is None else edited)

    return damage


def split(path: Path) -> None:
    """The same weights in two files."""
    shutil.rmtree(path / "shards", ignore_errors=True)
    made = write_directory(path / "shards", CONFIG, random_tensors(CONFIG), shards=2)
    (path / WEIGHTS).unlink()
    for file in made.iterdir():
        file.replace(path / file.name)
    made.rmdir()


def index(edit: Callable[[dict[str, Any]], Any]) -> Damage:
    """An edited index of two files."""

    def damage(path: Path) -> None:
        split(path)
        data = json.loads((path / INDEX).read_text())
        edited = edit(data)
        (path / INDEX).write_text(json.dumps(data if edited is None else edited))

    return damage


def in_index(name: Any) -> Damage:
    return index(lambda data: data["weight_map"].update({NORM: name}))


def written_to_index(text: str) -> Damage:
    def damage(path: Path) -> None:
        split(path)
        (path / INDEX).write_text(text)

    return damage


def instead(file: str, make: Callable[[Path], Any], first: Damage = lambda path: None) -> Damage:
    """Something else in a file's place."""

    def damage(path: Path) -> None:
        first(path)
        (path / file).unlink()
        make(path / file)

    return damage


def link(file: str, to: str, first: Damage = lambda path: None) -> Damage:
    return instead(file, lambda path: path.symlink_to(to.format(outside=path.parent.parent / SECRET)), first)


def sock(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # names of sockets are short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


# Names in the index.
for name, value, fact in [
    ("traversal", "../secret/model.safetensors", "not a plain file name"),
    ("traversal and back", "../hf/" + TWO, "not a plain file name"),
    ("absolute path", "/etc/model.safetensors", "not a plain file name"),
    ("here and there", "./" + TWO, "not a plain file name"),
    ("backslash", "..\\secret.safetensors", "not a plain file name"),
    ("NUL", "model\0.safetensors", "not a plain file name"),
    ("newline", "model\nerror: all is well.safetensors", "not a plain file name"),
    ("escape sequence", "\x1b[2Jmodel.safetensors", "not a plain file name"),
    ("text turned round", "model\u202e.safetensors", "not a plain file name"),
    ("surrogate", "model\ud800.safetensors", "not a plain file name"),
    ("surrogate of a byte", "model\udcff.safetensors", "not a plain file name"),
    ("endless", "m" * 100_000 + ".safetensors", "not a plain file name"),
    ("absent", "model-00003-of-00002.safetensors", "No such file"),
    ("empty", "", "not a safetensors file"),
    ("pickle", "pytorch_model.bin", "not a safetensors file"),
    ("python", "modeling.py", "not a safetensors file"),
    ("parent", "..", "not a safetensors file"),
    ("number", 7, "weight_map must map tensors to files"),
    ("list", [TWO], "weight_map must map tensors to files"),
]:
    add(f"index: {name}", "", fact, in_index(value))

add("index: no weight_map", INDEX, "weight_map must", index(lambda data: {"metadata": {}}))
add("index: no tensors", INDEX, "weight_map must", index(lambda data: data.update(weight_map={})))
add("index: a list", INDEX, "not a JSON object", index(lambda data: [data]))
add("index: tensor that no file has", TWO, "'x' of .* is not there", index(lambda d: d["weight_map"].update(x=TWO)))
add("index: another file", TWO, "is not there according to", in_index(ONE))
add("index: leaves a tensor out", TWO, "is not there according to", index(lambda d: d["weight_map"].pop(NORM) and None))
add(
    "index: over the limit",
    INDEX,
    "over the limit",
    written_to_index(" " * (8 * 2**20 + 1)),
)
add(
    "index: nested 100000 deep",
    INDEX,
    "nested too deeply",
    written_to_index(nested(100_000)),
)
add(
    "index: name twice",
    INDEX,
    "appears twice",
    written_to_index('{"weight_map": {"a": "b", "a": "b"}}'),
)


@case("both a single file and an index", "", "which is meant is not clear")
def _(path: Path) -> None:
    shutil.copy(path / WEIGHTS, path / "kept")
    split(path)
    (path / "kept").rename(path / WEIGHTS)


@case("head of the same bytes, meant otherwise", WEIGHTS, "lm_head.weight differs")
def _(path: Path) -> None:
    found = random_tensors(CONFIG, "BF16")
    write_file(path / WEIGHTS, found | {"lm_head.weight": found["model.embed_tokens.weight"].view(np.float16)})


@case("a tensor in two files", TWO, "is in model-00001-of-00002.safetensors too")
def _(path: Path) -> None:
    split(path)
    found = random_tensors(CONFIG)
    both = dict(list(found.items())[1::2]) | dict(list(found.items())[:1])
    write_file(path / TWO, both)


@case("only pickles", "", "'pytorch_model.bin' may hold pickled code, and is not opened")
def _(path: Path) -> None:
    (path / WEIGHTS).rename(path / "pytorch_model.bin")


@case("pickles with an index of their own", "", "neither model.safetensors nor")
def _(path: Path) -> None:
    (path / WEIGHTS).unlink()
    (path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {NORM: "pytorch_model.bin"}}))
    (path / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n.")


@case("a pickle under the name of weights", WEIGHTS, "over the limit")
def _(path: Path) -> None:
    (path / WEIGHTS).write_bytes(b"\x80\x04cos\nsystem\n(S'touch pwned'\ntR." + bytes(100))


# Links and special files.
LEADS_OUT = "leads out of the directory"
add("link: weights", WEIGHTS, LEADS_OUT, link(WEIGHTS, "{outside}/" + WEIGHTS))
add("link: weights, relative", WEIGHTS, LEADS_OUT, link(WEIGHTS, f"../{SECRET}/{WEIGHTS}"))
add("link: shard", TWO, LEADS_OUT, link(TWO, "{outside}/" + WEIGHTS, split))
add("link: config", "config.json", LEADS_OUT, link("config.json", "{outside}/config.json"))
add("link: index", INDEX, LEADS_OUT, link(INDEX, "{outside}/config.json", split))
add("link: tokenizer", "tokenizer.json", LEADS_OUT, link("tokenizer.json", "{outside}/tokenizer.json"))
add(
    "link: tokenizer settings",
    "",
    f"tokenizer_config.json: a link that {LEADS_OUT}",
    link("tokenizer_config.json", "{outside}/tokenizer_config.json"),
)
add("link: to a device", WEIGHTS, LEADS_OUT, link(WEIGHTS, "/dev/zero"))
add("link: to memory of the process", WEIGHTS, LEADS_OUT, link(WEIGHTS, "/proc/self/mem"))
add("link: nowhere", WEIGHTS, "No such file", link(WEIGHTS, "nowhere"))
add("link: to itself", WEIGHTS, "symbolic links", link(WEIGHTS, WEIGHTS))
add("link: config to itself", "", "no config.json", link("config.json", "config.json"))


@case("link: through a folder that leads out", WEIGHTS, LEADS_OUT)
def _(path: Path) -> None:
    (path / "folder").symlink_to("../" + SECRET)
    link(WEIGHTS, "folder/" + WEIGHTS)(path)


@case("link: a chat template", "", f"chat_template.jinja: a link that {LEADS_OUT}")
def _(path: Path) -> None:
    (path / "chat_template.jinja").symlink_to(f"../{SECRET}/config.json")


def device(path: Path) -> None:
    try:
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5))  # /dev/zero
    except PermissionError:
        pytest.skip("only root makes devices")


for name, make in [("pipe", os.mkfifo), ("folder", os.mkdir), ("socket", sock), ("device", device)]:
    for file in (WEIGHTS, "config.json", "tokenizer.json", "tokenizer_config.json"):
        add(f"{name}: {file}", "", f"{file}: not a regular file", instead(file, make))
    for file in (INDEX, TWO):
        add(f"{name}: {file}", file, "not a regular file", instead(file, make, split))

# Files that are cut short, and headers.
for size in (0, 7, 8, 200):
    add(f"cut to {size} bytes", WEIGHTS, "too few|cut short", lambda path, size=size: os.truncate(path / WEIGHTS, size))
add(
    "cut by a byte", WEIGHTS, "cut short", lambda path: os.truncate(path / WEIGHTS, (path / WEIGHTS).stat().st_size - 1)
)
add("header: length 2^63", WEIGHTS, "9223372036854775808 bytes is over the limit", raw_header("{}", 2**63))
add("header: length 2^64 - 1", WEIGHTS, "over the limit", raw_header("{}", 2**64 - 1))
add("header: over the limit", WEIGHTS, "over the limit", raw_header("{" + " " * 8 * 2**20 + "}"))
add("header: longer than the file", WEIGHTS, "cut short", raw_header("{}", 2**20))
add("header: empty", WEIGHTS, "not valid JSON", raw_header(""))
add("header: not JSON", WEIGHTS, "not valid JSON", raw_header("import os"))
add("header: nested 100000 deep", WEIGHTS, "nested too deeply", raw_header(nested(100_000)))
add("header: nested 900 deep", WEIGHTS, "nested too deeply", raw_header('{"a": ' + nested(900) + "}"))
add(
    "header: full of lists",
    WEIGHTS,
    "more than 262144 lists and objects",
    raw_header("[" + "[]," * (8 * 2**20 // 3 - 2) + "[]]"),
)
add(
    "header: full of objects",
    WEIGHTS,
    "more than 262144 lists and objects",
    raw_header('{"a":[' + "{}," * (8 * 2**20 // 3 - 4) + "{}]}"),
)
add("header: a number", WEIGHTS, "not a JSON object", raw_header("7"))
add("header: not UTF-8", WEIGHTS, "not valid JSON", raw_header(b'{"\xff": 1}'))
add("header: byte order mark", WEIGHTS, "not valid JSON", raw_header(b"\xef\xbb\xbf{}"))
add("header: name twice", WEIGHTS, "appears twice", raw_header('{"a": {}, "a": {}}'))
add("header: key twice", WEIGHTS, "appears twice", raw_header('{"a": {"dtype": "F32", "dtype": "F16"}}'))
add("header: NaN", WEIGHTS, "NaN is not a number", raw_header('{"a": NaN}'))
add("header: Infinity", WEIGHTS, "Infinity is not a number", raw_header('{"a": -Infinity}'))
add("header: 10^5000", WEIGHTS, "not valid JSON", raw_header('{"a": {"shape": [1' + "0" * 5000 + "]}}"))
add("header: notes that are no text", WEIGHTS, "__metadata__", header(lambda h: h.update(__metadata__={"a": 1})))
add("header: notes in a list", WEIGHTS, "__metadata__", header(lambda h: h.update(__metadata__=["a"])))
add("header: entry is a list", WEIGHTS, "must have dtype", header(lambda h: h.update({NORM: []})))
add("header: key too many", WEIGHTS, "and nothing else", entry(strides=[1]))
add("header: key missing", WEIGHTS, "must have dtype", header(lambda h: h[QUERY].pop("shape") and None))

# Places, shapes and types of tensors.
SIZE = sum(value.nbytes for value in random_tensors(CONFIG).values())
for name, offsets in [
    ("negative", [-256, 0]),
    ("float", [0.0, 256.0]),
    ("true", [False, True]),
    ("text", ["0", "256"]),
    ("one", [0]),
    ("three", [0, 128, 256]),
    ("backwards", [256, 0]),
    ("null", None),
]:
    add(f"offsets: {name}", WEIGHTS, f"'{QUERY}' has the data_offsets", entry(data_offsets=offsets))
add("offsets: past the end", WEIGHTS, "cut short", entry(data_offsets=[SIZE, SIZE + 256]))
add("offsets: 2^62", WEIGHTS, "cut short", entry(data_offsets=[2**62, 2**62 + 256]))
add("offsets: 4000 digits", WEIGHTS, "cut short", entry(data_offsets=[10**4000, 10**4000 + 256]))
add("offsets: other size", WEIGHTS, "cannot have 252 bytes", entry(data_offsets=[0, 252]))
add("offsets: overlap", WEIGHTS, "overlaps the one before", entry(data_offsets=[0, 256]))


@case("offsets: two tensors in one place", WEIGHTS, "overlaps the one before")
def _(path: Path) -> None:
    found, values = read_raw(path / WEIGHTS)
    found["x"] = found[QUERY]
    write_raw(path / WEIGHTS, json.dumps(found).encode(), values)


@case("offsets: gap", WEIGHTS, "leaves a gap after the one before")
def _(path: Path) -> None:
    found, values = read_raw(path / WEIGHTS)
    start = found[QUERY]["data_offsets"][0]
    for value in found.values():
        if "data_offsets" in value and value["data_offsets"][0] >= start:
            value["data_offsets"] = [place + 4 for place in value["data_offsets"]]
    write_raw(path / WEIGHTS, json.dumps(found).encode(), values + bytes(4))


@case("bytes after the last tensor", WEIGHTS, "1 bytes after the last tensor belong to none")
def _(path: Path) -> None:
    with (path / WEIGHTS).open("ab") as file:
        file.write(b"\0")


for name, shape in [
    ("negative", [-8, -8]),
    ("float", [8.0, 8]),
    ("text", "8x8"),
    ("true", [True, 64]),
    ("nine dimensions", [8, 8, 1, 1, 1, 1, 1, 1, 1]),
    ("100000 dimensions", [1] * 10**5),
    ("deep", [[[8]], 8]),
]:
    add(f"shape: {name}", WEIGHTS, f"'{QUERY}' has the shape", entry(shape=shape))
add("shape: 2^62", WEIGHTS, "cannot have 256 bytes", entry(shape=[2**62, 8]))
add("shape: 2^62 eight times", WEIGHTS, "cannot have 256 bytes", entry(shape=[2**62] * 8))
add(
    "shape: product wraps round to the size",
    WEIGHTS,
    "cannot have 256 bytes",
    entry(shape=[2**32, 2**32 + 64 // 2**32 + 1]),
)
add("shape: 4000 digits", WEIGHTS, "cannot have 256 bytes", entry(shape=[10**4000, 10**4000]))
add("shape: none", WEIGHTS, "cannot have 256 bytes", entry(shape=[]))
add("shape: another one of this size", WEIGHTS, f"{QUERY} has the shape .*asks for", entry(shape=[4, 16]))
for dtype in ("I32", "I8", "F8_E4M3", "F64", "BOOL", "O", "f32", None, ["F32"], 32):
    add(f"type: {dtype}", WEIGHTS, "has the type .*; weights are", entry(dtype=dtype))
add("type: half as wide", WEIGHTS, "cannot have 256 bytes", entry(dtype="BF16"))


# Tensors.
def put(name: str, value: np.ndarray) -> Callable[[dict[str, np.ndarray]], None]:
    return lambda found: found.update({name: value})


def poke(name: str, place: int, value: float) -> Callable[[dict[str, np.ndarray]], None]:
    return lambda found: found[name].reshape(-1).__setitem__(place, value)


def bits(code: type, number: int) -> np.ndarray:
    found = np.ones(8, code)
    found.view(np.uint16)[3] = number
    return found


UP = "model.layers.0.mlp.up_proj.weight"
add("tensor missing", "", f"tensor {QUERY} is missing", weights(lambda found: found.pop(QUERY) is None or None))
add(
    "embedding missing",
    "",
    "embed_tokens.weight is missing",
    weights(lambda f: f.pop("model.embed_tokens.weight") is None or None),
)
add("no tensors", "", "num_hidden_layers = 2, but the files hold 0", weights(lambda found: {}))
add("tensor too many", WEIGHTS, "'x' belongs to no parameter", weights(put("x", np.ones(3, np.float32))))
add("layer too many", "config.json", "but the files hold 3", weights(put("model.layers.2.x", np.ones(3, np.float32))))
add("layer with a gap", "", "but the files hold 3", weights(put("model.layers.7.x", np.ones(3, np.float32))))
add(
    "QK-norm that is not used",
    WEIGHTS,
    "belongs to no parameter",
    weights(put("model.layers.0.self_attn.q_norm.weight", np.ones((2, 4), np.float32))),
)
add("QK-norm missing", "", "q_norm.weight is missing", config(use_qk_norm=True))
add("newline in a name", WEIGHTS, r"'a\\nb' belongs to no parameter", weights(put("a\nb", np.ones(3, np.float32))))
add("endless name", WEIGHTS, "belongs to no parameter", weights(put("a" * 10**6, np.ones(3, np.float32))))
add("wrong shape", WEIGHTS, f"{UP} has the shape", weights(put(UP, np.ones((8, 12), np.float32))))
add("wrong number of dimensions", WEIGHTS, f"{NORM} has the shape", weights(put(NORM, np.ones((8, 1), np.float32))))
add("empty tensor", WEIGHTS, f"{NORM} has the shape", weights(put(NORM, np.ones(0, np.float32))))
add(
    "head of its own",
    WEIGHTS,
    "lm_head.weight differs from the embedding",
    weights(put("lm_head.weight", np.ones((270, 8), np.float32))),
)
add(
    "head of another shape",
    WEIGHTS,
    "lm_head.weight differs",
    weights(put("lm_head.weight", np.ones((8, 270), np.float32))),
)
add(
    "head of another type",
    WEIGHTS,
    "lm_head.weight differs",
    weights(lambda f: f.update({"lm_head.weight": f["model.embed_tokens.weight"].astype(np.float16)})),
)
BIAS = "model.layers.0.self_attn.q_proj.bias"
add(
    "bias",
    WEIGHTS,
    f"'{BIAS}' is not zero",
    weights(put(BIAS, np.eye(1, 8, 7, dtype=np.float32)[0]), attention_bias=True),
)
add(
    "bias in bfloat16",
    WEIGHTS,
    f"'{BIAS}' is not zero",
    weights(put(BIAS, np.eye(1, 8, 7)[0].astype(ml_dtypes.bfloat16))),
)
add("bias that is not a number", WEIGHTS, "is not zero", weights(put(BIAS, np.full(8, np.nan, np.float32))))
add("bias of nothing", WEIGHTS, "'x.bias' belongs to no parameter", weights(put("x.bias", np.zeros(8, np.float32))))
BAD = "values that are not finite"
for name, value in [("NaN", math.nan), ("infinity", math.inf), ("-infinity", -math.inf)]:
    add(f"weights: {name}", WEIGHTS, f"{QUERY} has {BAD}", weights(poke(QUERY, 37, value)))
add("weights: NaN at the end", WEIGHTS, f"{NORM} has {BAD}", weights(poke(NORM, -1, math.nan)))
for code in (np.float16, ml_dtypes.bfloat16):
    for name, number in [
        ("NaN", 0x7FFF),
        ("-NaN", 0xFFFF),
        ("signalling NaN", 0x7F81 if code != np.float16 else 0x7D01),
    ]:
        add(f"weights: {name} of {code.__name__}", WEIGHTS, f"{NORM} has {BAD}", weights(put(NORM, bits(code, number))))


@case("weights: NaN in a large tensor", WEIGHTS, f"embed_tokens.weight has {BAD}")
def _(path: Path) -> None:
    weights(poke("model.embed_tokens.weight", 1_000_003, math.nan), vocab_size=400_000)(path)


# config.json.
for name, text, fact in [
    ("a list", "[]", "not a JSON object"),
    ("empty", "", "not valid JSON"),
    ("not UTF-8", b'{"a": "\xff"}', "not valid JSON"),
    ("UTF-16", json.dumps(CONFIG).encode("utf-16"), "not valid JSON"),
    ("key twice", '{"model_type": "cohere2", "model_type": "cohere2"}', "'model_type' appears twice"),
    ("NaN", '{"model_type": "cohere2", "rope_theta": NaN}', "NaN is not a number"),
    ("10^5000", '{"model_type": "cohere2", "vocab_size": 1' + "0" * 5000 + "}", "not valid JSON"),
    ("nested 100000 deep", '{"model_type": ' + nested(100_000) + "}", "nested too deeply"),
    ("nested 900 deep", '{"model_type": ' + nested(900) + "}", "nested too deeply"),
    ("nested 60 deep", '{"model_type": ' + nested(60) + "}", "nested too deeply"),
    ("over the limit", json.dumps(CONFIG | {"x": "x" * 4 * 2**20}), "over the limit"),
    ("far over the limit", b"[" + b"[]," * (12 * 2**20) + b"[]]", "over the limit"),
    ("no object", "null", "not a JSON object"),
]:
    add(f"config: {name}", "config.json", fact, text_of("config.json", text))
add("config: absent", "", "no config.json", lambda path: (path / "config.json").unlink())

for name, changes, fact in [
    ("model_type cohere2_moe", {"model_type": "cohere2_moe"}, "model_type = 'cohere2_moe': only cohere2"),
    ("model_type llama", {"model_type": "llama"}, "model_type = 'llama': only cohere2"),
    ("model_type cohere2_vision", {"model_type": "cohere2_vision"}, "model_type = 'cohere2_vision': only cohere2"),
    ("model_type absent", {"model_type": ...}, "no model_type"),
    ("model_type null", {"model_type": None}, "model_type = None: only cohere2"),
    ("model_type list", {"model_type": ["cohere2"]}, "only cohere2"),
    ("model_type with a newline", {"model_type": "cohere2\n"}, "only cohere2"),
    ("model_type endless", {"model_type": "cohere2" * 10**5}, "only cohere2"),
    ("architectures", {"architectures": ["LlamaForCausalLM"]}, r"must be \[Cohere2ForCausalLM\]"),
    ("two architectures", {"architectures": ["Cohere2ForCausalLM"] * 2}, "must be"),
    ("auto_map", {"auto_map": {"AutoModelForCausalLM": "modeling.Evil"}}, "auto_map = "),
    ("quantization_config", {"quantization_config": {"quant_method": "bitsandbytes"}}, "quantization_config = "),
    ("untied", {"tie_word_embeddings": False}, "tie_word_embeddings = False: only True"),
    ("sequential block", {"use_parallel_block": False}, "use_parallel_block = False: only True"),
    ("gelu", {"hidden_act": "gelu"}, "hidden_act = 'gelu': only silu"),
    ("RMSNorm", {"rms_norm_eps": 1e-6}, "rms_norm_eps = 1e-06"),
    ("experts", {"num_experts": 8}, "num_experts = 8"),
    ("rotary_pct", {"rotary_pct": 0.5}, "rotary_pct = 0.5: only 1"),
    ("rotary_pct true", {"rotary_pct": True}, "rotary_pct = True: only 1"),
    ("partial_rotary_factor", {"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5: only 1"),
    ("half-split RoPE", {"position_embedding_type": "rope"}, "position_embedding_type = 'rope': only rope_gptj"),
    ("softcapping", {"logit_softcapping": 30.0}, "logit_softcapping = 30.0"),
    ("parallel block 1", {"use_parallel_block": 1}, "use_parallel_block = 1: only True"),
    ("attention_bias text", {"attention_bias": "no"}, "attention_bias = 'no'"),
    ("10^9 layers", {"num_hidden_layers": 10**9}, "num_hidden_layers = 1000000000, but the files hold 2"),
    ("layers by default", {"num_hidden_layers": ...}, "num_hidden_layers = 40, but the files hold 2"),
    ("layers in words", {"num_hidden_layers": "two"}, "num_hidden_layers = 'two'"),
    ("layers 2.0", {"num_hidden_layers": 2.0}, "num_hidden_layers = 2.0"),
    ("vocabulary 2^40", {"vocab_size": 2**40}, "vocab_size = 1099511627776: must be a whole number from 1"),
    ("vocabulary 2^31 - 1", {"vocab_size": 2**31 - 1}, "embed_tokens.weight has the shape"),
    ("vocabulary 0", {"vocab_size": 0}, "vocab_size = 0"),
    ("vocabulary true", {"vocab_size": True}, "vocab_size = True"),
    ("vocabulary text", {"vocab_size": "270"}, "vocab_size = '270': must be a whole number"),
    ("vocabulary null", {"vocab_size": None}, "vocab_size = None"),
    ("width 2^31 - 1", {"hidden_size": 2**31 - 2}, "has the shape|must be even"),
    ("width float", {"hidden_size": 8.0}, "hidden_size = 8.0"),
    ("width negative", {"hidden_size": -8}, "hidden_size = -8"),
    ("feed-forward width", {"intermediate_size": 13}, "gate_proj.weight has the shape"),
    ("feed-forward width by default", {"intermediate_size": ...}, "gate_proj.weight has the shape"),
    ("heads that do not divide", {"num_attention_heads": 3}, "num_attention_heads = 3: does not divide"),
    ("heads that do not divide, null", {"num_attention_heads": 3, "head_dim": None}, "num_attention_heads = 3"),
    ("heads that are not there", {"num_attention_heads": 4}, "k_proj.weight has the shape"),
    ("more heads than the width", {"num_attention_heads": 16}, "num_attention_heads = 16"),
    ("key heads that do not divide", {"num_key_value_heads": 3}, "num_key_value_heads = 3: .*divide"),
    ("2^31 - 1 heads", {"num_attention_heads": 2**31 - 1, "num_key_value_heads": 2, "head_dim": 4}, "divide"),
    ("highly divisible heads", {"num_attention_heads": 1102701600, "num_key_value_heads": 19, "head_dim": 4}, "divide"),
    ("odd heads", {"head_dim": 3}, "has the shape|even"),
    ("head_dim", {"head_dim": 8}, "q_proj.weight has the shape"),
    ("head_dim text", {"head_dim": "4"}, "head_dim = '4': must be a whole number"),
    ("negative window", {"sliding_window": -6}, "sliding_window = -6"),
    ("window null", {"sliding_window": None}, "sliding_window = None"),
    ("window float", {"sliding_window": 6.5}, "sliding_window = 6.5"),
    ("window 2^70", {"sliding_window": 2**70}, "sliding_window = "),
    ("pattern 0", {"sliding_window_pattern": 0}, "sliding_window_pattern = 0"),
    ("pattern text", {"sliding_window_pattern": "LG"}, "sliding_window_pattern = 'LG'"),
    ("patterns that differ", {"layer_switch": 4}, "contradict each other"),
    ("pattern under a name that nobody reads", {"sliding_window_pattern": ..., "layer_switch": 2}, "not read this key"),
    ("layer_types too short", {"layer_types": ["sliding_attention"]}, "layer_types = .*list of num_hidden_layers = 2"),
    ("layer_types too long", {"layer_types": ["full_attention"] * 10**5}, "layer_types = .*list of"),
    ("layer_types text", {"layer_types": "full_attention"}, "layer_types = 'full_attention': must be a list"),
    ("layer_types unknown", {"layer_types": ["sliding_attention", "mamba"]}, "'mamba' is neither"),
    ("layer_types numbers", {"layer_types": [1, 0]}, "1 is neither"),
    ("layer_types nested", {"layer_types": [[], {}]}, "is neither"),
    (
        "layer_types contradict",
        {"layer_types": ["full_attention"] * 2},
        "sliding_window_pattern = 2: contradicts layer_types",
    ),
    ("theta contradicts", {"rope_parameters": {"rope_type": "default", "rope_theta": 5e4}}, "contradict each other"),
    ("theta negative", {"rope_theta": -1.0}, "rope_theta = -1.0: must be a positive number"),
    ("theta 0", {"rope_theta": 0}, "rope_theta = 0"),
    ("theta text", {"rope_theta": "10000"}, "rope_theta = '10000': must be a positive number"),
    ("theta true", {"rope_theta": True}, "rope_theta = True"),
    ("theta 10^400", {"rope_theta": 10**400}, "rope_theta = 1000"),
    ("theta list", {"rope_theta": [1e4]}, "rope_theta = "),
    ("yarn", {"rope_scaling": {"type": "yarn", "factor": 4.0}}, "rope_scaling = .*: only None"),
    ("yarn, newer", {"rope_theta": ..., "rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "rope_parameters = "),
    (
        "yarn, hidden",
        {"rope_theta": ..., "rope_parameters": {"rope_type": "default", "factor": 4.0}},
        "'factor' cannot",
    ),
    ("rope_parameters list", {"rope_parameters": [1]}, "rope_parameters = "),
    (
        "rope_parameters by type",
        {"rope_parameters": {"full_attention": {"rope_theta": 1e4}}},
        "'full_attention' cannot",
    ),
    ("rope_parameters type list", {"rope_parameters": {"rope_type": ["default"]}}, "rope_parameters = "),
    ("eps text", {"layer_norm_eps": "1e-5"}, "layer_norm_eps = '1e-5'"),
    ("eps negative", {"layer_norm_eps": -1e-5}, "layer_norm_eps = -1e-05"),
    ("logit scale 0", {"logit_scale": 0.0}, "logit_scale = 0.0"),
    ("logit scale vanishes", {"logit_scale": 1e-300}, "logit_scale = 1e-300"),
    ("logit scale null", {"logit_scale": None}, "logit_scale = None"),
    ("use_qk_norm text", {"use_qk_norm": "true"}, "use_qk_norm = 'true': must be true or false"),
    ("context text", {"max_position_embeddings": "long"}, "max_position_embeddings = 'long'"),
    ("context null", {"max_position_embeddings": None}, "max_position_embeddings = None"),
    ("context negative", {"max_position_embeddings": -64}, "max_position_embeddings = -64"),
    ("context float", {"max_position_embeddings": 64.5}, "max_position_embeddings = 64.5"),
    ("context list", {"max_position_embeddings": [64]}, "max_position_embeddings = "),
    ("token text", {"bos_token_id": "<s>"}, "bos_token_id = '<s>'"),
    ("token object", {"pad_token_id": {"content": 1}}, "pad_token_id = "),
    ("token list", {"pad_token_id": [1]}, "pad_token_id = "),
    ("end tokens", {"eos_token_id": [1, "2"]}, "eos_token_id = "),
    ("token negative", {"eos_token_id": -7}, "eos_token_id = -7"),
]:
    add(f"config: {name}", "", fact, config(**changes))


@case("config: 10^999 as text of a number", "config.json", "layer_norm_eps = inf")
def _(path: Path) -> None:
    text = json.dumps(CONFIG | {"layer_norm_eps": 0.125}).replace("0.125", "1e999")
    (path / "config.json").write_text(text)


@case("config: 5000 layers without a period", "", "5000 layers are over the limit of 1024")
def _(path: Path) -> None:
    count = 5_000
    empty = np.ones(0, np.float32)
    write_file(path / WEIGHTS, {f"model.layers.{layer}.x": empty for layer in range(count)})
    types = [f"{'sliding' if layer % 2 else 'full'}_attention" for layer in range(count - 2)] + ["full_attention"] * 2
    config(num_hidden_layers=count, sliding_window_pattern=None, layer_types=types)(path)


@case("cohere without a RoPE base", "config.json", "rope_theta = None: missing, and its default differs")
def _(path: Path) -> None:
    config(model_type="cohere", architectures=["CohereForCausalLM"], rope_theta=...)(path)


# The tokenizer.
def bpe(path: Path, vocab: dict[str, int], merges: list[str], prefix: str) -> None:
    """A model that tokenizers 0.23 cuts in the middle of a character."""
    data = json.loads((path / "tokenizer.json").read_text())
    data["model"] = {"type": "BPE", "vocab": vocab, "merges": merges, "continuing_subword_prefix": prefix}
    (path / "tokenizer.json").write_text(json.dumps(data))


@case("tokenizer: more tokens than the vocabulary", "tokenizer.json", "270 tokens.*269")
def _(path: Path) -> None:
    weights(lambda found: None, vocab_size=269)(path)


@case("tokenizer: an id of 2^32 - 1", "tokenizer.json", "4294967296 tokens")
def _(path: Path) -> None:
    data = json.loads((path / "tokenizer.json").read_text())
    data["model"]["vocab"]["there"] = 2**32 - 1
    (path / "tokenizer.json").write_text(json.dumps(data))


@case("tokenizer: a type with a newline in its name", "", "tokenizer.json cannot be read as a tokenizer")
def _(path: Path) -> None:
    data = json.loads((path / "tokenizer.json").read_text())
    data["decoder"]["type"] = "Byte\nLevel\x1b[2J" + 10_000 * "x"
    (path / "tokenizer.json").write_text(json.dumps(data))


@case("tokenizer: a merge of tokens that are not there", "", "tokenizer.json cannot be read as a tokenizer")
def _(path: Path) -> None:
    data = json.loads((path / "tokenizer.json").read_text())
    data["model"]["merges"].append(["\n" * 9, "no such token" * 1000])
    (path / "tokenizer.json").write_text(json.dumps(data))


@case("tokenizer: one that makes its library panic", "tokenizer.json", "breaks down over it")
def _(path: Path) -> None:
    bpe(path, {"é": 0, "b": 1}, ["é b"], "éé")


@case("tokenizer: one that makes its library end the process", "tokenizer.json", "breaks down over it")
def _(path: Path) -> None:
    bpe(path, {"é": 0, "b": 1}, ["b é"], "x")


@case("tokenizer: no token of that name", "", "there is no token")
def _(path: Path) -> None:
    tokenizer_config(bos_token="\x1b[2J<s>\u202e" * 1000)(path)


@case("tokenizer: no start token", "", "does not name the bos_token")
def _(path: Path) -> None:
    (path / "tokenizer_config.json").unlink()


@case("tokenizer: chat template is not UTF-8", "", "UTF-8|utf-8|decode")
def _(path: Path) -> None:
    (path / "chat_template.jinja").write_bytes(b"\xff\xfe{{ x }}")


for name, text in [
    ("empty", ""),
    ("not JSON", "import os"),
    ("a list", "[]"),
    ("no model", '{"version": "1.0"}'),
    ("not UTF-8", b"\xff"),
    ("nested 100000 deep", nested(100_000)),
]:
    add(f"tokenizer: {name}", "", "tokenizer.json cannot be read as a tokenizer", text_of("tokenizer.json", text))
for name, settings in [
    ("number", {"bos_token": 7}),
    ("list", {"bos_token": ["<|bos|>"]}),
    ("object without content", {"eos_token": {"lstrip": False}}),
    ("object of objects", {"eos_token": {"content": {"content": "<|eos|>"}}}),
    ("null content", {"eos_token": {"content": None}}),
    ("surrogate", {"bos_token": "\ud800"}),
    ("template with a surrogate", {"chat_template": "\ud800"}),
]:
    add(f"tokenizer settings: {name}", "", "the tokenizer cannot be taken", tokenizer_config(**settings))
add(
    "tokenizer settings: not JSON",
    "",
    "tokenizer_config.json: not valid JSON",
    text_of("tokenizer_config.json", "{'a'"),
)
add(
    "tokenizer settings: a list", "", "tokenizer_config.json: not a JSON object", text_of("tokenizer_config.json", "[]")
)


# --- tests -----------------------------------------------------------------------------------------


def test_the_undamaged_directory_is_imported(valid, tmp_path):
    """So that every refusal below has its damage as its only reason."""
    for name, damage in {"single": lambda path: None, "split": split}.items():
        path = damaged(valid, tmp_path / name, damage)
        assert import_directory(path, tmp_path / name / "run", report=str).model.num_layers == 2


@pytest.mark.parametrize("name", CASES)
def test_refused(valid, tmp_path, name):
    damage, file, fact = CASES[name]
    path = damaged(valid, tmp_path, damage)
    before = tree(tmp_path)
    tracemalloc.start()
    try:
        with at_most(2), pytest.raises(UserError) as caught:
            import_directory(path, tmp_path / "run", report=str)
        memory = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    assert_one_line(message, tmp_path)
    assert re.search(fact, message), message
    assert str(path / file) in message, message
    assert memory < MEMORY
    assert tree(tmp_path) == before


#: Some of each sort, through the command line.
AT_THE_COMMAND_LINE = [
    "index: traversal",
    "index: newline",
    "link: weights",
    "pipe: model.safetensors",
    "header: length 2^63",
    "weights: NaN",
    "config: auto_map",
    "config: model_type absent",
    "tokenizer: one that makes its library panic",
]


@pytest.mark.parametrize("name", AT_THE_COMMAND_LINE)
def test_the_command_ends_with_one_line_and_code_2(valid, tmp_path, capfd, name):
    path = damaged(valid, tmp_path, CASES[name][0])
    before = tree(tmp_path)
    with at_most(2), pytest.raises(SystemExit) as ended:
        main(["import", str(path), str(tmp_path / "run")])
    assert ended.value.code == 2
    error = capfd.readouterr().err
    assert error.startswith("error: ")
    assert error.endswith("\n")
    assert_one_line(error[:-1], tmp_path)
    assert tree(tmp_path) == before


#: What would take gigabytes if it were believed, or read before it is checked.
LARGE = [
    "header: length 2^64 - 1",
    "header: over the limit",
    "header: full of lists",
    "shape: 2^62",
    "shape: 100000 dimensions",
    "config: far over the limit",
    "config: vocabulary 2^31 - 1",
    "config: 10^9 layers",
    "config: 5000 layers without a period",
    "config: 2^31 - 1 heads",
    "config: over the limit",
    "index: over the limit",
    "endless name",
    "device: model.safetensors",
    "device: tokenizer.json",
]

_CHILD = """
import resource, sys, threading
from pathlib import Path
from rnope_jax.errors import UserError
from rnope_jax.interop import directory, import_directory, open_source

used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 200 * 2**20,) * 2)
for directory in map(Path, sys.argv[1:]):
    try:
        import_directory(directory, directory.with_name("run"), report=str)
    except UserError as error:
        print("refused:", error)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="asks Linux for the memory in use")
def test_refused_in_little_memory(valid, tmp_path):
    """Counts what tracemalloc does not see, too: maps of files, other languages."""
    paths = [damaged(valid, tmp_path / str(i), CASES[name][0]) for i, name in enumerate(LARGE)]
    done = subprocess.run([sys.executable, "-c", _CHILD, *paths], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    assert len(lines) == len(paths)
    for line, name in zip(lines, LARGE, strict=True):
        assert line.startswith("refused: "), line
        assert re.search(CASES[name][2], line), line


def test_the_tokenizer_is_tried_without_the_modules_of_the_working_directory(valid, tmp_path, monkeypatch):
    """Somebody may stand in the directory that nobody vouches for."""
    path = damaged(valid, tmp_path, lambda path: None)
    for module in ("tokenizers", "resource", "contextlib"):
        (path / f"{module}.py").write_text("open('pwned', 'w')")
    monkeypatch.chdir(path)
    import_directory(Path(), tmp_path / "run", report=str)
    assert not (path / "pwned").exists()


def test_a_run_keeps_only_what_was_understood(valid, tmp_path):
    """Keys that nobody checked could name code, or be what JSON cannot hold."""
    text = json.dumps(CONFIG | {"attn_implementation": "hub/kernel", "x": 0.125}).replace("0.125", "1e999")
    path = damaged(valid, tmp_path, text_of("config.json", text))
    (path / "modeling.py").write_text("raise SystemExit")
    (path / "tokenizer_config.json").write_text(
        json.dumps({"bos_token": "<|bos|>", "eos_token": "<|eos|>", "auto_map": {"AutoTokenizer": ["x.Y", None]}})
    )
    run = tmp_path / "run"
    import_directory(path, run, report=str)
    assert json.loads((run / "imported" / "config.json").read_text()) == CONFIG
    settings = json.loads((run / "tokenizer" / "tokenizer_config.json").read_text())
    assert settings == {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|bos|>", "eos_token": "<|eos|>"}
    assert sorted(str(file.relative_to(run)) for file in run.rglob("*") if file.is_file()) == [
        "config.json",
        "imported/config.json",
        "imported/model.safetensors",
        "tokenizer/tokenizer.json",
        "tokenizer/tokenizer_config.json",
    ]
    assert open_source(run).published == CONFIG


@pytest.mark.parametrize("name", ["head", "bias"])
def test_large_tensors_are_looked_at_to_the_end(tmp_path, monkeypatch, name):
    """They are compared piece by piece; pieces of two rows here."""
    monkeypatch.setattr(directory, "_PIECE", 64)
    found = random_tensors(CONFIG)
    head, bias = found["model.embed_tokens.weight"].copy(), np.zeros(12, np.float32)
    path = write_directory(
        tmp_path / "same", CONFIG, found | {"lm_head.weight": head, UP.replace("weight", "bias"): bias}
    )
    directory.open_directory(path)
    (head[-1] if name == "head" else bias)[-1:] += 1
    path = write_directory(
        tmp_path / "other", CONFIG, found | {"lm_head.weight": head, UP.replace("weight", "bias"): bias}
    )
    with pytest.raises(UserError, match=r"differs from the embedding" if name == "head" else "is not zero"):
        directory.open_directory(path)


def test_of_several_faults_the_same_is_told_each_time(valid, tmp_path):
    path = damaged(
        valid, tmp_path, weights(lambda found: found.update({f"x{i}": np.ones(3, np.float32) for i in range(9)}))
    )
    with pytest.raises(UserError, match="'x0' belongs to no parameter"):
        import_directory(path, tmp_path / "run", report=str)


# --- random damages --------------------------------------------------------------------------------

_VALUES = [None, True, False, 0, -1, 1, 2**31, 2**64, 0.5, 1e308, "", "x", [], {}, [[]], "\0", "\n"]


def mutated(rng: random.Random, data: bytes) -> bytes:
    """Some bytes changed, taken away, doubled, or the end cut off."""
    result = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8])):
        if not result:
            break
        place = rng.randrange(len(result))
        match rng.randrange(5):
            case 0:
                result[place] ^= 1 << rng.randrange(8)
            case 1:
                result[place] = rng.choice(b'{}[]",:0123456789-.eE\\ntfN\0\xff')
            case 2:
                del result[place : place + rng.choice([1, 2, 16])]
            case 3:
                result[place:place] = result[place : place + rng.choice([1, 8, 64])]
            case 4:
                if rng.random() < 0.2:
                    del result[place:]
    return bytes(result)


def other_values(rng: random.Random, value: Any) -> Any:
    """JSON with one value somewhere in it replaced."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        if rng.random() < 0.1:
            return {name: item for name, item in value.items() if name != key}
        return {**value, key: other_values(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.8:
        place = rng.randrange(len(value))
        return [*value[:place], other_values(rng, value[place]), *value[place + 1 :]]
    return rng.choice([*_VALUES, value])


@pytest.mark.parametrize("file", ["config.json", INDEX, ONE])
def test_random_damages_are_refused_or_harmless(tmp_path, file):
    """No other error than a refusal comes out of it, whatever is changed."""
    original = write_directory(tmp_path / "original", CONFIG, shards=2)
    whole = (original / file).read_bytes()
    start, end = (8, 8 + int.from_bytes(whole[:8], "little")) if file == ONE else (0, len(whole))
    kept = 0
    for seed in range(150):
        rng = random.Random(f"{file} {seed}")
        if rng.random() < 0.5:
            text = json.dumps(other_values(rng, json.loads(whole[start:end]))).encode()
            data = (len(text).to_bytes(8, "little") if file == ONE else b"") + text + whole[end:]
        else:
            data = mutated(rng, whole[:end]) + whole[end:]
        path = tmp_path / str(seed)
        shutil.copytree(original, path)
        (path / file).write_bytes(data)
        with at_most(2):
            try:
                config = import_directory(path, path / "run", report=str)
            except UserError as error:
                assert_one_line(str(error), tmp_path)
                assert not (path / "run").exists()
                assert not list(path.glob(".*"))
            else:
                assert config.model == open_source(path / "run").config.model
                kept += 1
        shutil.rmtree(path)
    assert kept < 75
