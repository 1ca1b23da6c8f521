"""Tokenizer files as AutoTokenizer of transformers reads them."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import processors

from rnope_jax.data import Tokenizer, tokenizer
from rnope_jax.errors import UserError
from rnope_jax.interop.untrusted import quoted, read_json, regular_file

_FILE, _CONFIG, _TEMPLATE = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"

_FILE_LIMIT = 256 * 2**20
_CONFIG_LIMIT = 32 * 2**20

#: Settings that are data. Others may name classes or code, and the tokenizer does not need them.
_KEPT = (
    *(f"{name}_token" for name in ("bos", "eos", "pad", "unk", "cls", "sep", "mask")),
    *("add_bos_token", "add_eos_token", "chat_template", "clean_up_tokenization_spaces", "model_max_length"),
)


#: Reads a tokenizer.json in a process of its own: over some files the library panics, and takes the process that it
#: is in with it. Errors that it reports are left to the reader here, who meets them again.
_PROBE = """
import contextlib, resource, sys, tokenizers
with contextlib.suppress(Exception):
    resource.setrlimit(resource.RLIMIT_AS, (2**32, 2**32))
with contextlib.suppress(Exception):
    tokenizers.Tokenizer.from_file(sys.argv[1]).encode("a naïve\\n text")
"""

#: Seconds that the probe may take; a vocabulary of a million tokens takes five.
_PROBE_LIMIT = 120


def check_tokenizer(directory: Path, vocab_size: int) -> None:
    """Checks the tokenizer of a directory that nobody vouches for, after another process has survived it.

    Args:
      directory: where a tokenizer.json is.
      vocab_size: tokens that the model has.

    Raises:
      UserError: naming the file and the fact, if it cannot be used.
    """
    file = regular_file(directory, _FILE, _FILE_LIMIT)
    # -P: the working directory may be the one that nobody vouches for, with a tokenizers.py in it.
    command = [sys.executable, "-P", "-c", _PROBE, str(file)]
    try:
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True, timeout=_PROBE_LIMIT)
        with tempfile.TemporaryDirectory() as aside:
            size = copy_tokenizer(directory, Path(aside), add_bos=False).vocab_size
    except subprocess.SubprocessError as error:
        raise UserError(f"{file}: the tokenizers library breaks down over it") from error
    except (UserError, KeyError, TypeError, ValueError) as error:
        # Settings may be of any type, and messages quote what they are about.
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        fact = quoted(kind + str(error).replace(f"{directory}/", ""), 200)[1:-1]
        raise UserError(f"{directory}: the tokenizer cannot be taken: {fact}") from error
    if size > vocab_size:
        raise UserError(f"{file}: has {size} tokens, the model an embedding of {vocab_size}")


def copy_tokenizer(source: Path, target: Path, *, add_bos: bool) -> Tokenizer:
    """Copies the tokenizer files that are data, from a directory that nobody vouches for.

    Args:
      source: where they are.
      target: an existing directory.
      add_bos: let encoding put the start token in front, and nothing else anywhere: training did.

    Raises:
      UserError: naming the file and the fact, if one is not as it must be.
    """
    file = regular_file(source, _FILE, _FILE_LIMIT)
    settings: dict[str, Any] = {}
    if (source / _CONFIG).exists():
        settings = read_json(source, _CONFIG, _CONFIG_LIMIT)
    kept = {"tokenizer_class": "PreTrainedTokenizerFast"}
    kept |= {name: settings[name] for name in _KEPT if settings.get(name) is not None}
    loaded = tokenizer.load(file, **_ends(file, settings))
    kept |= {"bos_token": loaded.bos, "eos_token": loaded.eos}
    text = file.read_text(encoding="utf-8")
    if add_bos:
        # They could contradict the template, and llama.cpp's converter believes them more than it.
        kept = {name: value for name, value in kept.items() if name not in ("add_bos_token", "add_eos_token")}
        if loaded.backend.encode("").ids != [loaded.bos_id]:
            text = _with_bos(loaded)
    (target / _FILE).write_text(text, encoding="utf-8")
    (target / _CONFIG).write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if (source / _TEMPLATE).exists():
        template = regular_file(source, _TEMPLATE, _CONFIG_LIMIT)
        (target / _TEMPLATE).write_text(template.read_text(encoding="utf-8"), encoding="utf-8")
    return loaded


def _ends(file: Path, settings: dict[str, Any]) -> dict[str, str | None]:
    """The start and end tokens where the settings do not name them: those that config.json gives by number."""
    numbers = {}
    if (file.parent / "config.json").exists():
        numbers = read_json(file.parent, "config.json", _CONFIG_LIMIT)
    ends: dict[str, str | None] = {"bos_token": None, "eos_token": None}
    for name in ends:
        if settings.get(name) is None:
            number = numbers.get(f"{name}_id")
            known = None
            if type(number) is int and 0 <= number < 2**31:
                known = tokenizers.Tokenizer.from_file(str(file)).id_to_token(number)
            if known is None:
                raise UserError(f"{_CONFIG} does not name the {name}, and config.json has no {name}_id that is one")
            ends[name] = known
    return ends


def token_ids(loaded: Tokenizer, directory: Path) -> dict[str, int]:
    """The ids of the start, end and padding tokens, as a config.json holds them."""
    ids = {"bos_token_id": loaded.bos_id, "eos_token_id": loaded.eos_id}
    pad = json.loads((directory / _CONFIG).read_text(encoding="utf-8")).get("pad_token")
    number = loaded.backend.token_to_id(pad if isinstance(pad, str) else (pad or {}).get("content", ""))
    return ids if number is None else {**ids, "pad_token_id": number}


def _with_bos(loaded: Tokenizer) -> str:
    """The tokenizer as JSON, with a template that starts every text with the start token."""
    backend, before = loaded.backend, loaded.backend.post_processor
    template = processors.TemplateProcessing(
        single=f"{loaded.bos} $A",
        pair=f"{loaded.bos} $A {loaded.bos}:1 $B:1",
        special_tokens=[(loaded.bos, loaded.bos_id)],
    )
    kept = before and not backend.encode("").ids
    backend.post_processor = processors.Sequence([before, template]) if kept else template
    text = backend.to_str(pretty=True)
    backend.post_processor = before
    return text
