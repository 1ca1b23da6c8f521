"""From the command line to a `Config`: a Python file, one of its functions, and overrides."""

import difflib
import inspect
import re
import runpy
import sys
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import tyro

from rnope_jax import config as config_module
from rnope_jax import layers
from rnope_jax.config import Config
from rnope_jax.errors import UserError
from rnope_jax.interop.untrusted import read_json
from rnope_jax.run import Run
from rnope_jax.schema import Schema, unknown_field

#: The function that is taken when none is named.
DEFAULT_FUNCTION = "config"

#: What a run directory and a directory of Hugging Face files both hold.
_RECORDED = "config.json"

_LIMIT = 64 * 2**20


def parse(program: str, arguments: Sequence[str]) -> Config:
    """The configuration that a command line describes: FILE[:FUNCTION], then overrides such as --model.num-layers 12.

    Raises:
      UserError: if the file, the function or a value is not right.
      SystemExit: after printing help, or with code 2 on an option that does not exist.
    """
    usage = (
        f"usage: {program} FILE.py[:FUNCTION] [--FIELD VALUE ...]\n"
        f"       {program} RUN [--FIELD VALUE ...]    takes the configuration of a run\n"
        f"       {program} FILE.py --help             lists the fields"
    )
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage)
        raise SystemExit(0 if arguments else 2)
    if arguments[0].startswith("-"):
        raise UserError(f"the first argument must be a configuration file or a run, not {arguments[0]}\n{usage}")
    default = load(arguments[0])
    return tyro.cli(
        Config,
        default=default,
        args=list(arguments[1:]),
        prog=f"{program} {arguments[0]}",
        # Every option takes a value, a switch True or False.
        config=(tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff),
    )


def load(spec: str) -> Config:
    """The configuration that FILE.py:FUNCTION returns, or that of a run directory.

    FUNCTION is `config` where it is left out.

    Raises:
      UserError: if there is no such file or function, or what it returns is not a valid Config.
    """
    given = Path(spec).parent if Path(spec).name == _RECORDED else Path(spec)
    if given.is_dir():
        return _recorded(given)
    name, _, function = spec.partition(":")
    path = Path(name)
    if not path.is_file():
        near = difflib.get_close_matches(name, [str(p) for p in path.parent.glob("*.py")], n=1)
        hint = f"did you mean {near[0]}?" if near else "give FILE.py, FILE.py:FUNCTION or a run directory"
        raise UserError(f"configuration file {name} does not exist; {hint}")
    # As for `python FILE.py`: a configuration may import its neighbours.
    sys.path.insert(0, str(path.parent.absolute()))
    try:
        namespace = runpy.run_path(str(path))
        return _call(namespace, path, function or DEFAULT_FUNCTION)
    except UserError as error:
        raise type(error)(f"{_place(error, path)}: {error}") from error
    except Exception as error:  # whatever the user's file may raise
        raise UserError(f"{_place(error, path)}: {_explained(error)}") from error
    finally:
        sys.path.pop(0)


def _recorded(directory: Path) -> Config:
    """The configuration of a run, where the run lies now."""
    if (directory / _RECORDED).is_file() and "model_type" in read_json(directory, _RECORDED, _LIMIT):
        raise UserError(f"{directory} holds Hugging Face files; make a run of them: rnope import {directory} RUN")
    return replace(Run(directory).config, run_dir=str(directory))


def _place(error: BaseException, path: Path) -> str:
    """The file, and its line on which the error came up."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f"{path}, line {lines[-1]}" if lines else str(path)


def _call(namespace: dict[str, Any], path: Path, function: str) -> Config:
    own = sorted(
        name
        for name, value in namespace.items()
        if inspect.isfunction(value) and value.__globals__.get("__file__") == str(path) and not name.startswith("_")
    )
    if function not in own:
        near = difflib.get_close_matches(function, own, n=1)
        hint = f"; did you mean {path}:{near[0]}?" if near else "."
        raise UserError(f"there is no function {function!r}{hint} It has: {', '.join(own) or 'none'}")
    result = namespace[function]()
    if not isinstance(result, Config):
        raise UserError(
            f"{function} returned {type(result).__name__}, not a Config; let it return one (rnope_jax.config.Config)"
        )
    return result


def _explained(error: Exception) -> str:
    """What went wrong; names the nearest field where a configuration class was given one that it lacks."""
    message = str(error)
    found = re.search(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", message)
    cls = found and (getattr(config_module, found[1], None) or getattr(layers, found[1], None))
    if found and isinstance(cls, type) and issubclass(cls, Schema):
        return unknown_field(cls, found[2], found[1])
    if found := re.search(r"(\w+)\.__init__\(\) missing .* arguments?: (.*)", message):
        return f"{found[1]} needs {found[2]}"
    return f"{type(error).__name__}: {message}"
