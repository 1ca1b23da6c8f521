"""Text to tokens and back: any `tokenizer.json`, or a byte-level BPE trained on the corpus."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from rnope_jax.errors import UserError
from rnope_jax.files import make_directory

PAD, BOS, EOS = "<|pad|>", "<|bos|>", "<|eos|>"

_SPECIAL = (PAD, BOS, EOS)
_ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())

_FILE, _CONFIG = "tokenizer.json", "tokenizer_config.json"

#: Longest piece of text that is tokenized at once, in characters.
PIECE = 1 << 20

#: Tokens that are decoded again with the next one: a character has at most four bytes, and what a
#: decoder leaves out at the start of a text must not be left out of its middle.
_CONTEXT = 4

#: The name of a token that stands for one byte, in tokenizers that fall back to bytes.
_BYTE = re.compile("<0x[0-9A-F]{2}>")


class Tokenizer:
    """A tokenizer with the tokens that start and end a document."""

    def __init__(self, backend: tokenizers.Tokenizer, bos: str, eos: str):
        # A text that happens to hold "<|eos|>" is text: it gets no special token.
        backend.encode_special_tokens = True
        self.backend = backend
        self.bos, self.eos = bos, eos
        self.bos_id, self.eos_id = (self._special(token) for token in (bos, eos))

    def _special(self, token: str) -> int:
        number = self.backend.token_to_id(token)
        if number is None:
            raise UserError(
                f"tokenizer: there is no token {token!r}; set data.bos_token and data.eos_token to tokens it has"
            )
        return number

    @cached_property
    def vocab_size(self) -> int:
        """Number of token ids, special tokens included."""
        return max(self.backend.get_vocab(with_added_tokens=True).values()) + 1

    @cached_property
    def fingerprint(self) -> str:
        """Checksum of everything that decides which tokens a text becomes."""
        rules = json.loads(self.backend.to_str())
        for name in ("version", "truncation", "padding"):
            rules.pop(name, None)
        data = json.dumps([rules, self.bos_id, self.eos_id], sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(data.encode("utf-8", "surrogatepass")).hexdigest()

    def encode(self, text: str) -> list[int]:
        """Tokens of a text, without special tokens."""
        return [token for ids in self.encode_batch([text]) for token in ids]

    def encode_batch(self, texts: Sequence[str]) -> Iterator[list[int]]:
        """Tokens of each text, without special tokens; long texts are worked on in pieces."""
        parts_of = [list(pieces(text)) for text in texts]
        flat = [piece for parts in parts_of for piece in parts]
        encoded = iter(self.backend.encode_batch_fast(flat, add_special_tokens=False))
        for parts in parts_of:
            yield [token for _ in parts for token in next(encoded).ids]

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens; special tokens are left out."""
        return self.backend.decode(list(tokens), skip_special_tokens=True)

    def stream(self, tokens: Iterable[int]) -> Iterator[str]:
        """Decodes token by token; yields text as soon as no later token can change it.

        Only the last few tokens are decoded each time. A text that ends with a replacement character
        may end within a character, so this one waits; so do tokens that stand for single bytes, up
        to the next that does not: how some tokenizers decode them depends on the whole run.
        """
        special = {n for n, token in self.backend.get_added_tokens_decoder().items() if token.special}
        recent: list[int] = []
        shown = 0  # characters of `recent` that were yielded
        for token in tokens:
            name = self.backend.id_to_token(token)
            if name is None or token in special:
                continue  # leaves no text
            recent.append(token)
            if _BYTE.fullmatch(name):
                continue
            text = self.decode(recent)
            yield text[shown : _settled(text)]
            recent = recent[-_CONTEXT:]
            shown = _settled(self.decode(recent))
        yield self.decode(recent)[shown:]

    def save(self, directory: Path) -> None:
        """Writes the two files that `load` and Hugging Face's AutoTokenizer read, whole or not at all."""
        with make_directory(directory) as target:
            (target / _FILE).write_text(self.backend.to_str(pretty=True), encoding="utf-8")
            settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": self.bos, "eos_token": self.eos}
            if self.backend.token_to_id(PAD) is not None:
                settings["pad_token"] = PAD
            (target / _CONFIG).write_text(json.dumps(settings, indent=2) + "\n")


def load(path: Path, bos_token: str | None = None, eos_token: str | None = None) -> Tokenizer:
    """Reads a `tokenizer.json`, or a directory with one.

    Args:
      path: the file or its directory.
      bos_token: token that starts a document; None takes it from the tokenizer_config.json beside.
      eos_token: token that ends a document, likewise.

    Raises:
      UserError: if the file is missing or unreadable, or the two tokens are not known.
    """
    file = path / _FILE if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"data.tokenizer: {file} does not exist; give a tokenizer.json or the directory that holds it")
    try:
        backend = tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the Rust library raises plain Exception for everything
        raise UserError(f"data.tokenizer: {file} cannot be read as a tokenizer.json: {error}") from error
    settings = _settings(file.with_name(_CONFIG))
    bos, eos = bos_token or settings.get("bos_token"), eos_token or settings.get("eos_token")
    if bos is None or eos is None:
        name = "bos_token" if bos is None else "eos_token"
        raise UserError(f"data.{name} = None: {file} has no {_CONFIG} beside it that names one; set data.{name}")
    return Tokenizer(backend, bos, eos)


def check_vocab_size(vocab_size: int) -> None:
    """Checks that a byte-level BPE can be this small.

    Raises:
      UserError: if not even single bytes would fit.
    """
    least = len(_ALPHABET) + len(_SPECIAL)
    if vocab_size < least:
        raise UserError(f"model.vocab_size = {vocab_size}: a byte-level tokenizer needs at least {least}")


def train(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE of at most `vocab_size` tokens; the same texts give the same tokenizer."""
    check_vocab_size(vocab_size)
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=list(_SPECIAL), initial_alphabet=_ALPHABET, show_progress=False
    )
    backend.train_from_iterator((piece for text in texts for piece in pieces(text)), trainer)
    return Tokenizer(backend, BOS, EOS)


def _settings(file: Path) -> dict[str, str]:
    """Special tokens named in a tokenizer_config.json; they may be written as text or as objects."""
    if not file.is_file():
        return {}
    try:
        data = json.loads(file.read_text())
        named = {name: data.get(name) for name in ("bos_token", "eos_token")}
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError) as error:
        raise UserError(f"data.tokenizer: {file} is not a JSON object: {error}") from error
    return {name: token["content"] if isinstance(token, dict) else token for name, token in named.items() if token}


def _settled(text: str) -> int:
    """Length of the text that later bytes cannot change."""
    return len(text) - text.endswith("\N{REPLACEMENT CHARACTER}")


def pieces(text: str) -> Iterator[str]:
    """Cuts a long text after line breaks, so that memory stays bounded."""
    start = 0
    while len(text) - start > PIECE:
        end = cut(text, start)
        yield text[start:end]
        start = end
    yield text[start:]


def cut(text: str, start: int) -> int:
    """Where a piece ends that begins at `start`, in a text that goes on for more than `PIECE` characters."""
    return text.rfind("\n", start, start + PIECE) + 1 or start + PIECE
