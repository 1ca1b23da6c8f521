"""A part of prepared data: what one worker makes of one unit of input, whole or not at all.

PART/tokens-0000.bin, .crc    tokens of its documents, in files of at most `shard_tokens`
PART/counted-0000.bin, .crc   a byte for each token: whether it is to be predicted; only where some are not
PART/documents.bin            of each document where it starts, where it comes from, its digest (`DOCUMENT`)
PART/quarantine.jsonl         the records that could not be used
PART/index.json               counts and checksums

A part depends on its input and the settings alone: not on who makes it, when, nor beside what.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np

from rnope_jax.data.digests import Digest
from rnope_jax.data.formats import Bad, Limits, format_of
from rnope_jax.data.formats.item import shown
from rnope_jax.data.preparing.examples import Segment, Template, template, texts
from rnope_jax.data.preparing.tolerance import EXAMPLES, TooManyBad
from rnope_jax.data.shards import ShardWriter
from rnope_jax.data.tokenizer import Tokenizer
from rnope_jax.errors import UserError
from rnope_jax.files import make_directory

#: A document: where it starts in the tokens of its part, its line or row in what the part reads of a file
#: (0: the file as a whole), the digest of its contents, and which of the part's spans it belongs to.
DOCUMENT = np.dtype([("start", "<i8"), ("record", "<i8"), ("digest", "<u8"), ("span", "<i4")])

#: Characters of a bad record that a message shows.
_SHOWN = 80

#: Characters and pieces of text that are tokenized together.
_CHARACTERS, _PIECES = 1 << 20, 1024


class Span(NamedTuple):
    """What a unit reads of one file."""

    input: int
    """Number of the file in the plan."""
    path: str
    first: int
    stop: int


@dataclass(frozen=True)
class Settings:
    """What a part depends on besides its input and the tokenizer."""

    limits: Limits
    shard_tokens: int


class _Piece(NamedTuple):
    """Text to be tokenized, or a token."""

    content: str | int
    counted: bool
    begins: tuple[int, int] | None = None
    """Record and span, if a document begins here."""
    ends: int | None = None
    """Its digest, if a document ends here."""


def dtype_of(tokenizer: Tokenizer) -> np.dtype:
    """Type of the token ids in files."""
    return np.dtype("<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4")


def path(out: Path, number: int) -> Path:
    """Where a part of prepared data lies."""
    return out / "parts" / f"{number:06}"


def index(directory: Path) -> dict[str, Any]:
    """What is known of a part.

    Raises:
      UserError: if that cannot be read.
    """
    try:
        return dict(json.loads((directory / "index.json").read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{directory}/index.json cannot be read ({error}); delete {directory} to make it again"
        ) from error


def quarantine(directory: Path) -> Iterator[dict[str, Any]]:
    """The bad records of a part."""
    with (directory / "quarantine.jsonl").open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def example(span: Span, entry: Mapping[str, Any]) -> str:
    """A line on a bad record, for messages: where it is, what is wrong with it, how it begins."""
    record = entry["record"]
    if not span.first:
        place = f":{record}" if record else ""
    else:  # how many lines come before is known at the end
        place = f" (record {record} of what begins at {span.first:,})"
    begins = " ".join(entry["begins"].split())
    return f"{span.path}{place}: {entry['reason']}" + (f": {begins[:_SHOWN]}" if begins else "")


def documents(directory: Path) -> np.ndarray:
    """The documents of a part, `DOCUMENT` [documents], mapped from disk."""
    file = directory / "documents.bin"
    return np.memmap(file, DOCUMENT, mode="r") if file.stat().st_size else np.zeros(0, DOCUMENT)


def write(
    directory: Path,
    spans: Sequence[Span],
    settings: Settings,
    tokenizer: Tokenizer,
    allowed: int | None = None,
    progress: Callable[[int], None] = lambda tokens: None,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Makes a part.

    Args:
      directory: where.
      spans: what it reads.
      settings: what else decides what it holds.
      tokenizer: makes the tokens.
      allowed: stop when more records than these are bad; None allows any number.
      progress: is told how many tokens were written since it was told last.
      check: called when everything is read; raises if that must not become a part.

    Raises:
      UserError: if too many records are bad, or a file cannot be read.
    """
    with make_directory(directory) as target:
        with (target / "quarantine.jsonl").open("w", encoding="utf-8") as aside:
            reader = _Reader(spans, settings.limits, template(tokenizer), aside, allowed)
            with _Writer(target, settings.shard_tokens, dtype_of(tokenizer)) as writer:
                for group in _groups(reader.pieces()):
                    progress(writer.write(group, tokenizer))
                written = writer.close()
        check()
        found = {
            "records": reader.records,
            "bad": reader.bad,
            "empty": reader.empty,
            "text_bytes": reader.text_bytes,
            "lines": reader.lines,
            **written,
            "quarantine_sha256": hashlib.sha256((target / "quarantine.jsonl").read_bytes()).hexdigest(),
        }
        (target / "index.json").write_text(json.dumps(found, indent=1) + "\n")


class _Reader:
    """Reads spans; counts what they hold and puts aside what is bad."""

    def __init__(
        self, spans: Sequence[Span], limits: Limits, template: Template, quarantine: TextIO, allowed: int | None
    ):
        self.spans, self.limits, self.template = spans, limits, template
        self.quarantine, self.allowed = quarantine, allowed
        self.records = self.bad = self.empty = self.text_bytes = 0
        self.lines = [0] * len(spans)
        self._examples: list[str] = []

    def pieces(self) -> Iterator[_Piece]:
        """The documents, cut into pieces."""
        for number, span in enumerate(self.spans):
            path = Path(span.path)
            try:
                for item in format_of(path).items(path, span.first, span.stop, self.limits):
                    self.lines[number] = item.number
                    value = item.value
                    found: list[Segment] | Bad | None
                    if isinstance(value, Bad | None):
                        found = value
                    else:
                        found = _encodable(self.template.document(value, self.limits))
                        if isinstance(found, Bad) and isinstance(value, dict) and not found.begins:
                            found = replace(found, begins=shown(json.dumps(value)))
                    self.records += found.count if isinstance(found, Bad) else 1
                    if found is None:
                        self.empty += 1
                    elif isinstance(found, Bad):
                        self.lines[number] += found.count - 1
                        self._put_aside(number, item.number, found)
                    else:
                        yield from self._pieces(found, (item.number, number))
            except OSError as error:
                raise UserError(f"{span.path} cannot be read: {error.strerror or error}") from error

    def _pieces(self, segments: list[Segment], begins: tuple[int, int] | None) -> Iterator[_Piece]:
        made = Digest()
        for segment in segments[:-1]:
            if isinstance(segment.content, int):
                yield _Piece(segment.content, segment.counted, begins)
                begins = None
                continue
            for text in texts(segment):
                data = text.encode()
                made.update(data, segment.counted)
                self.text_bytes += len(data) if segment.counted else 0
                yield _Piece(text, segment.counted)
        end = segments[-1]
        assert isinstance(end.content, int)
        yield _Piece(end.content, end.counted, ends=made.value())

    def _put_aside(self, span: int, record: int, found: Bad) -> None:
        self.bad += found.count
        entry = {"span": span, "record": record, "reason": found.reason, "begins": found.begins, "count": found.count}
        self.quarantine.write(json.dumps(entry) + "\n")
        if len(self._examples) < EXAMPLES:
            self._examples.append(example(self.spans[span], entry))
        if self.allowed is not None and self.bad > self.allowed:
            raise TooManyBad(self.allowed, self._examples)


class _Writer:
    """Writes the tokens of pieces."""

    def __init__(self, target: Path, limit: int, dtype: np.dtype):
        self.tokens = ShardWriter(target, "tokens", dtype, limit)
        self.counted = ShardWriter(target, "counted", np.dtype(np.uint8), limit)
        self.documents = 0
        self._list = (target / "documents.bin").open("wb")
        self._sha256 = hashlib.sha256()
        self._open = (0, 0, 0)

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, *error: object) -> None:
        self._list.close()
        self.tokens.abandon()
        self.counted.abandon()

    def write(self, group: Sequence[_Piece], tokenizer: Tokenizer) -> int:
        """Tokenizes and writes pieces; returns how many tokens they are."""
        before = self.tokens.total
        wanted = [piece.content for piece in group if isinstance(piece.content, str)]
        encoded = iter(tokenizer.backend.encode_batch_fast(wanted, add_special_tokens=False))
        values, flags, ended = [], [], []
        place = before
        for piece in group:
            ids = [piece.content] if isinstance(piece.content, int) else next(encoded).ids
            if piece.begins is not None:
                self._open = (place, *piece.begins)
            values.append(np.array(ids, self.tokens.dtype))
            flags.append((len(ids), piece.counted))
            place += len(ids)
            if piece.ends is not None:
                start, record, span = self._open
                ended.append((start, record, piece.ends, span))
        self.tokens.write(np.concatenate(values))
        self._count(flags, before)
        data = np.array(ended, DOCUMENT).tobytes()
        self._list.write(data)
        self._sha256.update(data)
        self.documents += len(ended)
        return place - before

    def _count(self, flags: list[tuple[int, bool]], before: int) -> None:
        """Writes which tokens count; nothing for as long as all do."""
        lengths, counted = zip(*flags, strict=True)
        if all(counted) and not self.counted.total:
            return
        while self.counted.total < before:
            self.counted.write(np.ones(min(before - self.counted.total, 1 << 20), np.uint8))
        self.counted.write(np.repeat(np.array(counted, np.uint8), lengths))

    def close(self) -> dict[str, Any]:
        """Ends the files; returns what the index tells of them."""
        self.tokens.close()
        self.counted.close()
        return {
            "documents": self.documents,
            "tokens": self.tokens.total,
            "shards": self.tokens.written,
            "counted": self.counted.written,
            "documents_sha256": self._sha256.hexdigest(),
        }


def _encodable(found: list[Segment] | Bad | None) -> list[Segment] | Bad | None:
    """JSON can write characters that UTF-8 cannot."""
    if isinstance(found, list):
        for segment in found:
            if isinstance(segment.content, str):
                try:
                    segment.content.encode()
                except UnicodeEncodeError:
                    return Bad("holds half of a surrogate pair, which is no character", shown(segment.content))
    return found


def _groups(pieces: Iterator[_Piece]) -> Iterator[list[_Piece]]:
    group: list[_Piece] = []
    size = 0
    for piece in pieces:
        group.append(piece)
        size += len(piece.content) if isinstance(piece.content, str) else 1
        if size >= _CHARACTERS or len(group) >= _PIECES:
            yield group
            group, size = [], 0
    if group:
        yield group
