"""The data of a run: tokenizer and tokens, made once and kept in the run directory or read where they lie.

    RUN/tokenizer/             tokenizer.json, tokenizer_config.json
    RUN/data/KEY/entries.json  what the entries of one corpus are
    RUN/data/KEY/train         its text to learn from
    RUN/data/KEY/held_out      its held-out text
    RUN/data/KEY/records       its records, prepared as `rnope prepare` does
    RUN/data/KEY/in_place/     what is known of token files of other programs
    RUN/data/KEY/text_bytes    how much text the held-out tokens of the last three stand for

KEY names the corpus, so stages with the same corpus share it. What exists is used as it is: a run
goes on with the tokens that it began with, whatever has become of the files. Tokens that are read where
they lie are compared with their checksums.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from rnope_jax.config import Config
from rnope_jax.data import entries as entries_of
from rnope_jax.data import preparing, seal, sources, store, token_files, tokenizer
from rnope_jax.data.digests import digest
from rnope_jax.data.entries import Entries
from rnope_jax.data.formats import is_plain_text
from rnope_jax.data.held_out import is_held_out, split, text_bytes
from rnope_jax.data.mixture import Mixture
from rnope_jax.data.prepared import INDEX, PreparedTokens, is_prepared
from rnope_jax.data.store import Tokens, TokenStore
from rnope_jax.data.tokenizer import Tokenizer
from rnope_jax.data.views import Selected, joined
from rnope_jax.errors import UserError
from rnope_jax.files import write_text
from rnope_jax.run import Run

#: Texts of records that a tokenizer is trained on at most.
_LEARNED = 100_000


@dataclass(frozen=True)
class Corpus:
    """Everything that a run reads."""

    tokenizer: Tokenizer
    train: tuple[Mixture, ...]
    """One per stage."""
    held_out: Tokens
    """Of data.corpus."""

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        """What decides every token that the run reads, for JSON."""
        return {
            "tokenizer": self.tokenizer.fingerprint,
            "stages": {mixture.stage.name: mixture.fingerprint() for mixture in self.train},
            "held_out": self.held_out.fingerprint,
        }

    @cached_property
    def rows(self) -> dict[str, Any]:
        """By stage, how its sources fill rows, for JSON."""
        return {mixture.stage.name: mixture.plan() for mixture in self.train}


def check(config: Config) -> None:
    """Finds what is wrong with the inputs in a moment, before anything is written.

    What a run holds already is what it goes on with; only tokens that lie elsewhere are looked at then.

    Raises:
      UserError: if a corpus is missing, or the tokenizer is missing, unreadable or does not fit.
    """
    found = []
    for corpus in config.corpora:
        root = config.directory / "data" / _key(corpus)
        found.append(_entries(root, corpus, config))
        (found[-1].check_tokens if root.exists() else found[-1].check)()
    run = Run(config.directory)
    if run.config_file.exists() and run.tokenizer.exists():
        return
    if (given := _chosen(config, found)) is not None:
        _fits(config, given)
        for entries in found:
            _check_tokenizers(entries, given)
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
    making = _Making(config, run, report)
    made = {corpus: making.tokens(corpus) for corpus in config.corpora}
    train = tuple(
        Mixture(stage, [made[source.corpus or config.data.corpus][0] for source in stage.sources], (config.seed, index))
        for index, stage in enumerate(config.stages)
    )
    return Corpus(making.tokenizer, train, made[config.data.corpus][1])


class _Making:
    """The tokenizer and the tokens of a run, as they are made or opened."""

    def __init__(self, config: Config, run: Path, report: Callable[[str], None]):
        self.config, self.run, self.report = config, run, report
        self._splits: dict[tuple[str, ...], sources.Split] = {}
        #: Digests of what is held out of data.corpus, once that is known.
        self._measured: np.ndarray | None = None
        self._entries = {corpus: _entries(self.root(corpus), corpus, config) for corpus in config.corpora}
        self.tokenizer = self._tokenizer()
        for entries in self._entries.values():
            _check_tokenizers(entries, self.tokenizer)

    def root(self, corpus: tuple[str, ...]) -> Path:
        """Where the tokens of a corpus lie."""
        return self.run / "data" / _key(corpus)

    def tokens(self, corpus: tuple[str, ...]) -> tuple[Tokens, Tokens]:
        """What is learned from and what is held out of a corpus; data.corpus comes first."""
        root, entries = self.root(corpus), self._entries[corpus]
        measured = np.zeros(0, np.uint64) if self._measured is None else self._measured
        train: list[Tokens] = []
        held_out: list[Tokens] = []
        digests = [np.zeros(0, np.uint64)]
        # Texts are divided by their names, before they become tokens.
        if entries.texts:
            stores = self._texts(corpus, entries, root)
            train.append(stores[0])
            held_out.append(stores[1])
            digests.append(stores[1].digests())
        others: list[Selected] = []
        for opened, known in self._others(entries, root):
            first, second = split(opened, known, self.config.data.held_out_fraction, measured)
            train.append(first)
            others.append(second)
            if known is not None:
                digests.append(known[second.documents])
        if others:
            self._measure(others, root)
        if not (root / "entries.json").exists():
            entries_of.save(entries, root / "entries.json")
        if self._measured is None:
            self._measured = np.concatenate(digests)
        return joined(train), joined([*held_out, *others])

    def _texts(self, corpus: tuple[str, ...], entries: Entries, root: Path) -> list[TokenStore]:
        for part in ("train", "held_out"):
            if not (root / part).exists():
                documents = getattr(self._split(corpus, entries), part)
                made = store.write(root / part, documents, self.tokenizer, measure_xz=part == "held_out").index
                name = part.replace("_", "-")
                self.report(f"{name}: {made.documents:,} documents, {made.text_bytes:,} bytes, {made.tokens:,} tokens")
        stores = [TokenStore(root / part) for part in ("train", "held_out")]
        for made_before in stores:
            made_before.verify()
        return stores

    def _split(self, corpus: tuple[str, ...], entries: Entries) -> sources.Split:
        if corpus not in self._splits:
            measured = () if self._measured is None else self._measured.tolist()
            self._splits[corpus] = sources.read_split(entries.texts, self.config.data, measured)
            if skipped := self._splits[corpus].skipped:
                self.report(f"left out {len(skipped)} files that are not UTF-8 text, the first is {skipped[0]}")
        return self._splits[corpus]

    def _others(self, entries: Entries, root: Path) -> Iterator[tuple[Tokens, np.ndarray | None]]:
        """Records and tokens, with the digests of their documents where there are some."""
        if entries.records:
            if not (root / "records" / "index.json").exists():
                self._prepare_records(entries, root / "records")
            records = PreparedTokens(root / "records")
            yield records, records.digests()
        for number, entry in enumerate(entries.tokens):
            path = Path(entry).expanduser()
            if is_prepared(path):
                prepared = PreparedTokens(path)
                yield prepared, prepared.digests()
                continue
            place = root / "in_place" / f"{number:03}"
            if not place.exists():
                token_files.make_index(path, place, self.tokenizer)
                self.report(f"{path}: {seal.read(place / 'index.json')['tokens']:,} tokens, read where they lie")
            yield token_files.FileTokens(place), None

    def _prepare_records(self, entries: Entries, out: Path) -> None:
        options = preparing.Options(suffixes=_records(self.config))
        try:
            made = preparing.prepare(
                entries.records, out, self.tokenizer, options, workers=len(os.sched_getaffinity(0))
            )
        except preparing.TooManyBad as error:
            raise UserError(
                f"data.corpus has bad records, such as {error.examples[0]}; mend them, or prepare the data with "
                "`rnope prepare`, which can put them aside, and give the directory that it makes"
            ) from error
        assert made is not None
        self.report(
            f"records: {made['documents']:,} documents, {made['text_bytes']:,} bytes, {made['tokens']:,} tokens"
        )

    def _measure(self, held_out: Sequence[Selected], root: Path) -> None:
        """Tells the held-out tokens how much text they stand for; that is found out once."""
        file = root / "text_bytes"
        if not file.exists():
            root.mkdir(parents=True, exist_ok=True)
            write_text(file, json.dumps([text_bytes(tokens, self.tokenizer) for tokens in held_out]) + "\n")
        for tokens, size in zip(held_out, json.loads(file.read_text()), strict=True):
            tokens.set_text_bytes(size)

    def _tokenizer(self) -> Tokenizer:
        directory, config = self.run / "tokenizer", self.config
        if not directory.exists():
            made = _chosen(config, list(self._entries.values()))
            if made is None:
                self.report(f"training a tokenizer of {config.model.vocab_size:,} tokens")
                made = tokenizer.train(self._texts_to_learn(), config.model.vocab_size)
            _fits(config, made)
            made.save(directory)
        return tokenizer.load(directory)

    def _texts_to_learn(self) -> Iterator[str]:
        """Text of data.corpus for a tokenizer to be trained on; nothing that is held out."""
        corpus, fraction = self.config.data.corpus, self.config.data.held_out_fraction
        entries = self._entries[corpus]
        if entries.texts:
            yield from (document.text for document in self._split(corpus, entries).train)
        if entries.records:
            options = preparing.Options(suffixes=_records(self.config))
            for text in islice(preparing.texts(entries.records, options), _LEARNED):
                if not is_held_out(digest(text), fraction):
                    yield text


def held_out(config: Config, run: Path) -> Tokens | None:
    """The tokens that a run has not learned from; None if it has prepared none."""
    if not (run / "data" / _key(config.data.corpus)).exists():
        return None
    return _Making(config, run, lambda _: None).tokens(config.data.corpus)[1]


def _entries(root: Path, corpus: tuple[str, ...], config: Config) -> Entries:
    if (root / "entries.json").exists():
        return entries_of.load(root / "entries.json")
    return entries_of.of(corpus, config.data.suffixes)


def _records(config: Config) -> tuple[str, ...]:
    """Suffixes of the files of records in directories; some, also where none are taken from directories."""
    return tuple(end for end in config.data.suffixes if not is_plain_text(Path(f"x{end}"))) or (".jsonl",)


def _chosen(config: Config, found: Sequence[Entries]) -> Tokenizer | None:
    """The tokenizer that is given, or that data were prepared with; None if there is none yet.

    Raises:
      UserError: if token files of other programs come without one.
    """
    if config.data.tokenizer is not None:
        return _given(config, config.data.tokenizer)
    for entries in found:
        if made_with := entries.tokenizers():
            return tokenizer.load(made_with[0])
    for entries in found:
        if entries.tokens:
            raise UserError(f"data.tokenizer = None: set it to the tokenizer that {entries.tokens[0]} was made with")
    return None


def _check_tokenizers(entries: Entries, chosen: Tokenizer) -> None:
    for directory in entries.tokenizers():
        if seal.read(directory.parent / INDEX)["tokenizer"] != chosen.fingerprint:
            raise UserError(
                f"data.tokenizer: {directory.parent} was prepared with another tokenizer than that of the run; set "
                f"data.tokenizer to {directory}, or prepare the data again with yours"
            )


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
