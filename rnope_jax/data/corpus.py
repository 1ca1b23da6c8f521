"""The data of a run: tokenizer and token stores, made once and kept in the run directory.

    RUN/tokenizer/          tokenizer.json, tokenizer_config.json
    RUN/data/KEY/train      the training documents of one corpus
    RUN/data/KEY/held_out   its held-out documents

KEY names the corpus, so stages with the same corpus share it. What exists is used as it is: a run
goes on with the tokens that it began with, whatever has become of the files.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rnope_jax.config import Config
from rnope_jax.data import sources, store, tokenizer
from rnope_jax.data.packing import PackedRows
from rnope_jax.data.store import TokenStore
from rnope_jax.data.tokenizer import Tokenizer
from rnope_jax.errors import UserError
from rnope_jax.run import Run


@dataclass(frozen=True)
class Corpus:
    """Everything that a run reads."""

    tokenizer: Tokenizer
    train: tuple[TokenStore, ...]
    """One per stage."""
    held_out: TokenStore
    """Of data.corpus."""


def check(config: Config) -> None:
    """Finds what is wrong with the inputs in a moment, before anything is written.

    What a run holds already is what it goes on with; nothing else is looked at then.

    Raises:
      UserError: if a corpus is missing, or the tokenizer is missing, unreadable or does not fit.
    """
    for corpus in dict.fromkeys([config.data.corpus, *(stage.corpus for stage in config.stages)]):
        if not (config.directory / "data" / _key(corpus)).exists():
            sources.check(corpus)
    run = Run(config.directory)
    if run.config_file.exists() and run.tokenizer.exists():
        return
    if config.data.tokenizer is not None:
        _fits(config, _given(config, config.data.tokenizer))
    elif config.init.source is not None and not (config.directory / "tokenizer").exists():
        raise UserError(
            f"data.tokenizer = None: the parameters of init.source = {config.init.source!r} belong to a tokenizer; "
            "set data.tokenizer to it"
        )
    else:
        tokenizer.check_vocab_size(config.model.vocab_size)


def prepare(config: Config, run: Path, report: Callable[[str], None] = print) -> Corpus:
    """Makes what the run directory lacks, and opens it.

    Raises:
      UserError: if the corpus or the tokenizer cannot be read or does not fit the model, or a corpus is too short.
    """
    splits: dict[tuple[str, ...], sources.Split] = {}

    def split(corpus: tuple[str, ...]) -> sources.Split:
        if corpus not in splits:
            measured = () if corpus == config.data.corpus else split(config.data.corpus).held_out
            splits[corpus] = sources.read_split(corpus, config.data, measured)
            if skipped := splits[corpus].skipped:
                report(f"left out {len(skipped)} files that are not UTF-8 text, the first is {skipped[0]}")
        return splits[corpus]

    chosen = _tokenizer(config, run / "tokenizer", lambda: split(config.data.corpus), report)

    def stores(corpus: tuple[str, ...]) -> tuple[TokenStore, TokenStore]:
        root = run / "data" / _key(corpus)
        for part in ("train", "held_out"):
            if not (root / part).exists():
                documents = getattr(split(corpus), part)
                made = store.write(root / part, documents, chosen, measure_xz=part == "held_out").index
                name = part.replace("_", "-")
                report(f"{name}: {made.documents:,} documents, {made.text_bytes:,} bytes, {made.tokens:,} tokens")
        return TokenStore(root / "train"), TokenStore(root / "held_out")

    train = tuple(stores(stage.corpus or config.data.corpus)[0] for stage in config.stages)
    for stage, tokens in zip(config.stages, train, strict=True):
        PackedRows(tokens, stage.sequence_length)  # raises where a stage has too little text for a row
    return Corpus(chosen, train, stores(config.data.corpus)[1])


def held_out(config: Config, run: Path) -> TokenStore | None:
    """The text that a run has not learned from; None if it has prepared none."""
    directory = run / "data" / _key(config.data.corpus) / "held_out"
    return TokenStore(directory) if directory.exists() else None


def _tokenizer(
    config: Config, directory: Path, split: Callable[[], sources.Split], report: Callable[[str], None]
) -> Tokenizer:
    if not directory.exists():
        if config.data.tokenizer is not None:
            made = _given(config, config.data.tokenizer)
        else:
            report(f"training a tokenizer of {config.model.vocab_size:,} tokens")
            made = tokenizer.train((document.text for document in split().train), config.model.vocab_size)
        _fits(config, made)
        made.save(directory)
    return tokenizer.load(directory)


def _given(config: Config, path: str) -> Tokenizer:
    return tokenizer.load(Path(path).expanduser(), config.data.bos_token, config.data.eos_token)


def _fits(config: Config, made: Tokenizer) -> None:
    if made.vocab_size > config.model.vocab_size:
        raise UserError(
            f"model.vocab_size = {config.model.vocab_size}: the tokenizer has {made.vocab_size} tokens; "
            f"set model.vocab_size to at least {made.vocab_size}"
        )


def _key(corpus: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(list(corpus)).encode()).hexdigest()[:12]
