"""The end of preparing: what is known of all parts together, and whether everything is as it was written."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from rnope_jax.data import seal, tokenizer
from rnope_jax.data.preparing import part
from rnope_jax.data.preparing.plan import Plan
from rnope_jax.data.preparing.tolerance import Tolerance
from rnope_jax.data.sources import printable
from rnope_jax.errors import UserError
from rnope_jax.files import write_text

FORMAT = 1

#: Documents whose starts are written at once.
_DOCUMENTS = 1 << 16

_TOTALS = ("documents", "tokens", "records", "bad", "empty", "text_bytes")


def merge(out: Path, plan: Plan, tolerance: Tolerance) -> dict[str, Any]:
    """Writes starts.bin, quarantine.jsonl and, last, index.json; returns the index.

    Raises:
      UserError: if a part is damaged, too many records are bad, or there is nothing to learn from.
    """
    names = [printable(Path(item.path)) for item in plan.inputs]
    lines = [0] * len(names)
    totals = dict.fromkeys(_TOTALS, 0)
    parts = []
    with _Aside(out / "starts.bin") as starts, _Aside(out / "quarantine.jsonl") as quarantine:
        for number, spans in enumerate(plan.units):
            directory = part.path(out, number)
            found = part.index(directory)
            before = [lines[span.input] for span in spans]
            for entry in part.quarantine(directory):
                at, record = entry["span"], entry["record"]
                line = record + before[at] if record else 0
                kept = {"file": names[spans[at].input], "line": line, "reason": entry["reason"]}
                quarantine.write(
                    json.dumps({**kept, "records": entry["count"], "begins": entry["begins"]}).encode() + b"\n"
                )
            _copy_starts(directory, found, totals["tokens"], starts)
            for span, count in zip(spans, found.pop("lines"), strict=True):
                lines[span.input] += count
            for name in _TOTALS:
                totals[name] += found[name]
            sources = [[span.input, count] for span, count in zip(spans, before, strict=True)]
            parts.append({"name": directory.name, **found, "spans": sources})
    empty_files = sum(not item.size for item in plan.inputs)
    _check(out, totals, empty_files, tolerance)
    content = {
        "format": FORMAT,
        "tokenizer": plan.tokenizer,
        "dtype": part.dtype_of(tokenizer.load(out / "tokenizer")).str,
        **totals,
        "files": len(plan.inputs),
        "empty_files": empty_files,
        "other_files": plan.other,
        "starts_sha256": starts.sha256.hexdigest(),
        "quarantine_sha256": quarantine.sha256.hexdigest(),
        "inputs": names,
        "parts": parts,
    }
    write_text(out / "index.json", seal.text(content))
    return content


def verify(out: Path) -> list[str]:
    """Reads everything and compares it with its checksums; returns what is wrong, a line each.

    Raises:
      UserError: if there is no index, or it is damaged.
    """
    index = seal.read(out / "index.json")
    wanted = {"starts.bin": index["starts_sha256"], "quarantine.jsonl": index["quarantine_sha256"]}
    for item in index["parts"]:
        folder = f"parts/{item['name']}"
        wanted[f"{folder}/documents.bin"] = item["documents_sha256"]
        wanted[f"{folder}/quarantine.jsonl"] = item["quarantine_sha256"]
        for shard in (*item["shards"], *item["counted"]):
            wanted[f"{folder}/{shard['name']}.bin"] = shard["sha256"]
            wanted[f"{folder}/{shard['name']}.crc"] = shard["checksums_sha256"]
    wrong = []
    for name, checksum in wanted.items():
        try:
            with (out / name).open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            wrong.append(f"{out / name}: {error.strerror}")
            continue
        if found != checksum:
            wrong.append(f"{out / name}: its contents are not those that were written")
    try:
        same = tokenizer.load(out / "tokenizer").fingerprint == index["tokenizer"]
    except UserError:
        same = False
    return wrong if same else [*wrong, f"{out}/tokenizer: it is not the one that made the tokens"]


class _Aside:
    """A file that gets its name when it is complete and on disk."""

    def __init__(self, path: Path):
        self.path, self.aside = path, path.with_name(f".{path.name}.partial")
        self.sha256 = hashlib.sha256()

    def __enter__(self) -> "_Aside":
        self._file: BinaryIO = self.aside.open("wb")
        return self

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self.sha256.update(data)

    def __exit__(self, kind: object, *rest: object) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        if kind is None:
            self.aside.replace(self.path)


def _copy_starts(directory: Path, index: dict[str, Any], place: int, starts: _Aside) -> None:
    found, checksum = part.documents(directory), hashlib.sha256()
    for first in range(0, len(found), _DOCUMENTS):
        piece = np.array(found[first : first + _DOCUMENTS])
        checksum.update(piece.tobytes())
        starts.write((piece["start"] + place).astype("<i8").tobytes())
    if checksum.hexdigest() != index["documents_sha256"]:
        raise UserError(f"{directory}/documents.bin is damaged; delete {directory} and run the same command again")


def _check(out: Path, totals: dict[str, int], empty_files: int, tolerance: Tolerance) -> None:
    allowed = tolerance.allowed(totals["records"])
    if totals["bad"] > allowed:
        raise UserError(
            f"{totals['bad']:,} of {totals['records']:,} records are bad, more than the {allowed:,} that --max-bad "
            f"allows; {out}/quarantine.jsonl lists them. Mend them, or give the command again with a higher --max-bad"
        )
    if not totals["documents"]:
        listed = f"; {out}/quarantine.jsonl lists the bad ones" if totals["bad"] else ""
        raise UserError(
            f"none of the {totals['records']:,} records has text to learn from ({totals['bad']:,} are bad, "
            f"{totals['empty']:,} empty, {empty_files:,} files have no byte){listed}; is --text-field the right one?"
        )
