"""Results of single samples, a JSON object per line, written as they come and kept over an interruption."""

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rnope_jax.errors import UserError
from rnope_jax.files import write_text
from rnope_jax.inference import TextModel

#: Values of each parameter that tell one model from another.
_VALUES = 64

Record = dict[str, Any]


class Records:
    """A file of results."""

    def __init__(self, path: Path):
        self.path = path
        self.found = _read(path)

    def append(self, records: Sequence[Record]) -> None:
        """Adds results; they are on disk when this returns."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_lines(records))
            file.flush()
            os.fsync(file.fileno())
        self.found += records

    def finish(self, records: Sequence[Record]) -> None:
        """Replaces the file by all results in order, unless it is that already."""
        if records != self.found:
            write_text(self.path, _lines(records))
            self.found = list(records)


def _lines(records: Sequence[Record]) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def _read(path: Path) -> list[Record]:
    """The whole lines of a file; what a killed process left of another is cut off."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        return []
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if whole != data:
        with path.open("r+b") as file:
            file.truncate(len(whole))
    try:
        return [json.loads(line) for line in whole.decode().split("\n")[:-1]]
    except ValueError as error:
        raise UserError(f"{path}: not a file of results ({error}); move it away to measure anew") from error


@contextlib.contextmanager
def results_of(model: TextModel, out: Path) -> Iterator[None]:
    """Keeps a directory for the results of one model, and for one process at a time.

    Raises:
      UserError: if it holds results of another model, another process writes it, or it cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = (out / ".lock").open("w")
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror}; give another directory with --out") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"{out}: another process writes results there; wait for it, or give another directory with --out"
            ) from error
        identity = {"step": model.step, "dtype": model.config.compute_dtype, "fingerprint": fingerprint(model)}
        file = out / "model.json"
        if not file.exists():
            write_text(file, json.dumps(identity, indent=2) + "\n")
        elif _identity(file) != identity:
            raise UserError(f"{out} holds results of another model ({file}); give another directory with --out")
        yield


def _identity(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file}: cannot be read ({error}); give another directory with --out") from error


def fingerprint(model: TextModel) -> str:
    """A short text that differs between models: of their architecture, tokenizer and some values of each parameter."""
    digest = hashlib.sha256(repr(model.config).encode())
    digest.update(model.tokenizer.backend.to_str().encode())
    for name in sorted(model.params):
        values = model.params[name].reshape(-1)[:_VALUES]
        digest.update(name.encode() + np.asarray(jax.device_get(values)).astype(np.float32).tobytes())
    return digest.hexdigest()[:32]
