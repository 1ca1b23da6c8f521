"""Text on disk: which files a corpus has, and which of them are held out."""

import hashlib
import os
import sysconfig
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rnope_jax.config import STDLIB, DataConfig
from rnope_jax.data.digests import digest
from rnope_jax.data.formats import is_plain_text
from rnope_jax.errors import UserError

#: Folders of the standard library that hold no sources of its own, or only tests.
_NOT_STDLIB = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}


@dataclass(frozen=True)
class Document:
    """One text."""

    name: str
    """Path within the corpus, the same wherever the corpus lies."""
    text: str


@dataclass(frozen=True)
class Split:
    """Documents to learn from and documents to measure with."""

    train: tuple[Document, ...]
    held_out: tuple[Document, ...]
    skipped: tuple[str, ...]
    """Files of directories that are not UTF-8 text."""


def read_split(corpus: Sequence[str], config: DataConfig, measured: Collection[int] = ()) -> Split:
    """Reads a corpus and divides it by file; a corpus of one file is divided at a line of its text.

    Whether a file is held out depends on its name alone, so growing a corpus moves no file. A text
    that is held out is not learned from, whatever other names it has.

    Args:
      corpus: files and directories.
      config: which files of directories are taken, and the share that is held out.
      measured: digests of documents that are held out elsewhere.

    Raises:
      UserError: if an entry does not exist, cannot be read, or nothing is left to learn from.
    """
    documents, skipped = read_documents(corpus, config.suffixes)
    if not documents:
        suffixes = ", ".join(config.suffixes)
        raise UserError(
            f"data.corpus = {list(corpus)}: no text found; directories are searched for {suffixes} (data.suffixes)"
        )
    if len(documents) == 1:
        train, held_out = _divide_text(documents[0], config.held_out_fraction)
    else:
        train, held_out = _divide_files(documents, config.held_out_fraction)
    kept_back = {*(digest(document.text) for document in held_out), *measured}
    train = [document for document in train if digest(document.text) not in kept_back]
    if not train:
        raise UserError(
            f"data.corpus = {list(corpus)}: nothing is left to learn from, all of its text is held out; "
            "lower data.held_out_fraction, or give more text"
        )
    return Split(tuple(train), tuple(held_out), tuple(skipped))


def read_documents(
    corpus: Sequence[str], suffixes: Sequence[str], field: str = "data.corpus"
) -> tuple[list[Document], list[str]]:
    """Every text of a corpus, and the files of directories that are not UTF-8 text.

    Args:
      corpus: files and directories.
      suffixes: which files of directories are taken.
      field: what messages call the corpus.

    Raises:
      UserError: if an entry does not exist or cannot be read.
    """
    check(corpus, field)
    documents, skipped = [], []
    for name, path, listed in files(corpus, suffixes):
        if not is_plain_text(path):
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            if listed:
                raise UserError(f"{field}: {path} is not UTF-8 text ({error.reason} at byte {error.start})") from error
            skipped.append(printable(path))
            continue
        except OSError as error:
            raise UserError(f"{field}: cannot read {path}: {error.strerror}") from error
        if text.strip():
            documents.append(Document(name, text))
    return documents, skipped


def check(corpus: Sequence[str], field: str = "data.corpus") -> None:
    """Checks that every entry of a corpus exists, without reading it.

    Raises:
      UserError: naming the first that does not.
    """
    for entry in corpus:
        path = Path(entry).expanduser()
        if entry != STDLIB and not path.exists():
            raise UserError(f"{field}: {entry} does not exist; give a text file, a directory or {STDLIB!r}")
        if entry != STDLIB and not (path.is_file() or path.is_dir()):
            raise UserError(f"{field}: {entry} is not a regular file; write what comes out of it to one")


def files(corpus: Sequence[str], suffixes: Sequence[str]) -> Iterator[tuple[str, Path, bool]]:
    """Yields name, path and whether the file itself was listed, in an order that is always the same."""
    for entry in corpus:
        if entry == STDLIB:
            root = Path(sysconfig.get_paths()["stdlib"])
            for path in sorted(root.rglob("*.py")):
                relative = path.relative_to(root)
                if not _NOT_STDLIB & set(relative.parts):
                    yield printable(relative), path, False
            continue
        root = Path(entry).expanduser()
        if root.is_dir():
            for path in sorted(root.rglob("*")):
                if path.is_file() and path.name.endswith(tuple(suffixes)):
                    yield printable(path.relative_to(root)), path, False
        else:
            yield printable(Path(root.name)), root, True


def _divide_files(documents: list[Document], fraction: float) -> tuple[list[Document], list[Document]]:
    ranked = sorted(documents, key=lambda document: (_rank(document.name), document.name))
    count = sum(_rank(document.name) < fraction for document in documents)
    count = min(max(count, 1), len(documents) - 1)
    held_out = set(map(id, ranked[:count]))
    return (
        [document for document in documents if id(document) not in held_out],
        [document for document in documents if id(document) in held_out],
    )


def _divide_text(document: Document, fraction: float) -> tuple[list[Document], list[Document]]:
    text = document.text
    target = max(1, int(len(text.rstrip()) * (1 - fraction)))
    cuts = (text.find("\n", target) + 1, target)  # after a line where there is one to cut after
    cut = next((cut for cut in cuts if text[:cut].strip() and text[cut:].strip()), None)
    if cut is None:
        raise UserError(f"data.corpus: {document.name} is too short to hold out a part of it; give more text")
    return [Document(document.name, text[:cut])], [Document(document.name, text[cut:])]


def printable(path: Path) -> str:
    """A path as text; bytes of a name that is not UTF-8 are written as escapes."""
    return os.fsencode(path.as_posix()).decode("utf-8", "backslashreplace")


def _rank(name: str) -> float:
    """A number in [0, 1) that depends on the name alone."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
