"""The run directory: configuration, tokenizer, data, checkpoints, metrics and figures of one run.

RUN/config.json     the resolved configuration
RUN/data.json       the fingerprint of what is trained on
RUN/rows.json       how its sources fill the rows of each stage
RUN/tokenizer/      tokenizer.json, tokenizer_config.json
RUN/data/           token stores
RUN/checkpoints/    one directory per step
RUN/imported/       weights that were taken in, as Hugging Face files
RUN/metrics.jsonl   a line per report
RUN/tensorboard/    the same for TensorBoard
RUN/figures/        pictures
RUN/profile/        profiler traces, if asked for
RUN/programs/       compiled steps as text, if asked for
RUN/samples.txt     continuations made at the end
"""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rnope_jax.config import Config
from rnope_jax.errors import ConfigError, UserError
from rnope_jax.files import write_text
from rnope_jax.schema import differences

#: Sections that say how a run is watched and kept, not what it computes: they may change on resume.
_MAY_CHANGE = ("checkpoint", "evaluation", "logging", "mesh", "run_dir")

#: Fields that say what the weights of an imported run are.
_OF_WEIGHTS = [
    ["model", name]
    for name in ("pattern", "num_layers", "vocab_size", "d_model", "d_ff", "num_heads", "num_kv_heads", "head_dim")
]

#: Fields that say what tokenizer came with them.
_OF_TOKENS = [["data", name] for name in ("tokenizer", "bos_token", "eos_token")]

_LOCK = "lock"

#: What a run directory may hold before its configuration is recorded.
_PREPARED = {_LOCK, "tokenizer", ".tokenizer.partial", "data", ".config.json.partial"}


class Run:
    """Paths of a run."""

    def __init__(self, path: Path):
        self.path = path
        self.config_file = path / "config.json"
        self.data_file = path / "data.json"
        self.rows_file = path / "rows.json"
        self.tokenizer = path / "tokenizer"
        self.checkpoints = path / "checkpoints"
        self.imported = path / "imported"
        self.metrics = path / "metrics.jsonl"
        self.tensorboard = path / "tensorboard"
        self.figures = path / "figures"
        self.profile = path / "profile"
        self.programs = path / "programs"
        self.samples = path / "samples.txt"

    def record(self, config: Config) -> None:
        """Writes the configuration: from now on the directory is a run of it."""
        write_text(self.config_file, config.to_json())

    def record_data(self, fingerprint: Mapping[str, Any], rows: Mapping[str, Any]) -> None:
        """Writes what the run is trained on, and how it fills rows."""
        write_text(self.data_file, json.dumps(fingerprint, indent=2) + "\n")
        write_text(self.rows_file, json.dumps(rows, indent=2) + "\n")

    @property
    def has_checkpoint(self) -> bool:
        """Whether training has got anywhere; a save that was interrupted is no checkpoint."""
        return self.checkpoints.is_dir() and any(entry.name.isdigit() for entry in self.checkpoints.iterdir())

    @property
    def config(self) -> Config:
        """The configuration that the run was started with; what lies in the run is found where the run is now.

        Raises:
          UserError: if this is not a run directory.
        """
        try:
            text = self.config_file.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{self.config_file}: not UTF-8 text") from error
        except OSError as error:
            raise UserError(
                f"{self.path} is not a run directory: there is no readable {self.config_file.name} in it; "
                "give one that train.py or rnope import has made"
            ) from error
        try:
            config = Config.from_json(text)
        except (ConfigError, RecursionError) as error:
            raise UserError(f"{self.config_file}: {error}") from error
        return _moved(config, config.directory, self.path)

    def owns(self, path: str | None) -> bool:
        """Whether a path of a configuration leads into the run."""
        return path is not None and _absolute(path).is_relative_to(_absolute(self.path))


def check_run(config: Config) -> Run:
    """The run of a configuration, which may be one that is there or one to be made; writes nothing.

    Raises:
      UserError: if its directory belongs to another configuration, or is no run.
    """
    run = Run(config.directory)
    if run.config_file.exists():
        _check_same(run, config)
    elif run.path.is_dir():
        names = {entry.name for entry in run.path.iterdir()}
        # Without our lock, "data" and the like are somebody else's: they must not be cleared away.
        if foreign := sorted(names - _PREPARED if _LOCK in names else names):
            raise UserError(
                f"{run.path} exists and is not a run directory (it holds {foreign[0]}); choose another run_dir"
            )
    return run


@contextlib.contextmanager
def open_run(config: Config) -> Iterator[Run]:
    """Makes the run directory or takes up the one that is there; no other process may train in it meanwhile.

    A new run is one only when `Run.record` has been called: what an attempt that ended before left
    behind is cleared away.

    Raises:
      UserError: if another process trains in it, it belongs to another configuration, or it cannot be written.
    """
    run = check_run(config)
    try:
        run.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"run_dir: cannot write to {run.path}: {error.strerror}; choose another --run-dir") from error
    with only_process(run):
        if run.config_file.exists():
            _check_same(run, config)  # once more: another process may have started a run just before the lock
        else:
            for name in _PREPARED - {_LOCK}:
                shutil.rmtree(run.path / name, ignore_errors=True)
        if _is_plan(run) and run.config.data != _moved(config, _absolute(run.path), run.path).data:
            # An attempt that came to nothing prepared other data.
            shutil.rmtree(run.path / "data", ignore_errors=True)
            if not run.owns(run.config.data.tokenizer):
                shutil.rmtree(run.tokenizer, ignore_errors=True)
        yield run


@contextlib.contextmanager
def only_process(run: Run) -> Iterator[None]:
    """Keeps training in a run, and what may not happen meanwhile, apart.

    Raises:
      UserError: if another process trains in it, or it cannot be written.
    """
    try:
        lock = (run.path / _LOCK).open("w")
    except OSError as error:
        raise UserError(f"run_dir: cannot write to {run.path}: {error.strerror}; choose another --run-dir") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"{run.path}: another process is training in this directory; wait for it, or stop it"
            ) from error
        yield


def _is_plan(run: Run) -> bool:
    """Whether a run has no past: of imported weights that were not trained, only they themselves must stay."""
    return run.imported.exists() and run.config_file.exists() and not run.has_checkpoint


def _absolute(path: str | Path) -> Path:
    return Path(os.path.abspath(path))


def _moved(config: Config, old: Path, new: Path) -> Config:
    """A configuration whose paths into the directory `old` lead into `new`."""

    def moved(path: str | None) -> str | None:
        if path is None:
            return None
        given = _absolute(path) if old.is_absolute() else Path(path)
        return str(new / given.relative_to(old)) if given.is_relative_to(old) else path

    data = replace(config.data, tokenizer=moved(config.data.tokenizer))
    return replace(config, data=data, init=replace(config.init, source=moved(config.init.source)))


def _check_same(run: Run, config: Config) -> None:
    """Refuses to go on with a run whose past was made by another configuration."""
    recorded = run.config
    fixed = _OF_WEIGHTS + (_OF_TOKENS if run.owns(recorded.data.tokenizer) else [])
    plan = _is_plan(run)
    config = _moved(config, _absolute(run.path), run.path)
    changed = [
        (path, old, new)
        for path, old, new in differences(recorded.to_dict(), config.to_dict())
        if (section := path.split(".")[0]) not in _MAY_CHANGE
        and (not plan or section == "init" or path.split("[")[0].split(".")[:2] in fixed)
    ]
    if changed:
        lines = [f"  {path}: {old!r} there, {new!r} now" for path, old, new in changed[:5]]
        lines += [f"  and {len(changed) - 5} more"] if len(changed) > 5 else []
        raise UserError(
            f"{run.path} holds a run with another configuration:\n"
            + "\n".join(lines)
            + "\nGive the old values to resume it, or another --run-dir to start a new one"
            + (f", which --init.source {run.path} begins with the parameters of this one" if run.has_checkpoint else "")
            + ". Nothing was changed."
        )
