"""What the entries of a corpus are: texts, records, or tokens that are read where they lie."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rnope_jax.config import STDLIB
from rnope_jax.data import sources, token_files
from rnope_jax.data.formats import is_plain_text
from rnope_jax.data.prepared import PreparedTokens, is_prepared
from rnope_jax.errors import UserError
from rnope_jax.files import write_text


@dataclass(frozen=True)
class Entries:
    """The entries of a corpus by what they are; each keeps their order."""

    texts: tuple[str, ...]
    """Text files, directories and "stdlib"."""
    records: tuple[str, ...]
    """Files of records and compressed files, and directories that hold some; they are prepared for the run."""
    tokens: tuple[str, ...]
    """Prepared directories, and token files of other programs."""

    def check(self) -> None:
        """Finds what is missing or cannot be read, without reading it all.

        Raises:
          UserError: naming it.
        """
        sources.check((*self.texts, *self.records))
        self.check_tokens()

    def check_tokens(self) -> None:
        """Likewise, of what lies elsewhere for the whole of a run."""
        for entry in self.tokens:
            if is_prepared(_path(entry)):
                PreparedTokens(_path(entry))
            else:
                token_files.check(_path(entry))

    def tokenizers(self) -> list[Path]:
        """Tokenizers of prepared directories."""
        return [_path(entry) / "tokenizer" for entry in self.tokens if is_prepared(_path(entry))]


def of(corpus: Sequence[str], suffixes: Sequence[str]) -> Entries:
    """Sorts the entries of a corpus."""
    texts, records, tokens = [], [], []
    for entry in corpus:
        path = _path(entry)
        if entry == STDLIB:
            texts.append(entry)
        elif is_prepared(path) or (not path.is_dir() and token_files.is_token_file(path)):
            tokens.append(entry)
        elif path.is_dir():
            found = {is_plain_text(file) for _, file, _ in sources.files((entry,), suffixes)}
            if found != {False}:
                texts.append(entry)
            if False in found:
                records.append(entry)
        else:
            (texts if is_plain_text(path) else records).append(entry)
    return Entries(tuple(texts), tuple(records), tuple(tokens))


def save(entries: Entries, path: Path) -> None:
    """Keeps them with the run: what a directory was is not asked again when its files may be gone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(asdict(entries), indent=1) + "\n")


def load(path: Path) -> Entries:
    """Reads what `save` wrote.

    Raises:
      UserError: if it cannot be read.
    """
    try:
        return Entries(**{name: tuple(found) for name, found in json.loads(path.read_text()).items()})
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path} cannot be read ({error}); delete {path.parent} to have it made again") from error


def _path(entry: str) -> Path:
    return Path(entry).expanduser()
