"""`rnope prepare`: texts and records become token files."""

import math
import os
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

if TYPE_CHECKING:
    from rnope_jax.data.preparing import Progress

#: Seconds between two lines of progress where there is no terminal.
_LINES = 10.0


def prepare(
    paths: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[INPUT...] OUT")],
    /,
    *,
    tokenizer: Annotated[Path | None, tyro.conf.arg(metavar="TOKENIZER")] = None,
    bos_token: str | None = None,
    eos_token: str | None = None,
    text_field: str = "text",
    suffixes: tuple[str, ...] = (),
    workers: int | None = None,
    max_bad: str = "0",
    job: Annotated[str | None, tyro.conf.arg(metavar="I/N")] = None,
    merge: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    verify: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    shard_tokens: int = 1 << 27,
    part_mb: float = 64,
    max_record_mb: float = 64,
) -> int:
    """Make token files of texts and records; the same command goes on where it was interrupted.

    Args:
      paths: files and directories, and the directory to make; with --merge and --verify that alone.
      tokenizer: a tokenizer.json or the directory that holds it.
      bos_token: token that starts a document; by default what the tokenizer's own files name.
      eos_token: token that ends a document, likewise.
      text_field: field or column with the text of a record.
      suffixes: files taken from directories, by the end of their names.
      workers: processes; by default one for each core.
      max_bad: how many records may be bad, as a number or a share such as 0.1%; they are listed in
        OUT/quarantine.jsonl.
      job: do only the I-th of N shares of the work, I from 0; --merge ends it when all are done.
      merge: write the index when all jobs are done.
      verify: read all files of OUT and compare them with what was written; the exit code is 1 if any is damaged.
      shard_tokens: most tokens in one file.
      part_mb: megabytes of input that are one unit of work.
      max_record_mb: longest record in megabytes; longer ones are bad. Text files may have any length.
    """
    from rnope_jax.data import preparing
    from rnope_jax.data import tokenizer as tokenizers
    from rnope_jax.errors import UserError

    if not paths:
        raise UserError("give the files to prepare and the directory to make: rnope prepare INPUT... OUT")
    inputs, out = list(paths[:-1]), Path(paths[-1])
    if merge + verify + (job is not None) > 1:
        raise UserError("--job, --merge and --verify are three commands; give one of them")
    if (merge or verify) and inputs:
        raise UserError(f"--{'merge' if merge else 'verify'} takes the prepared directory alone, not {inputs[0]}")
    if verify:
        wrong = preparing.verify(out)
        print("\n".join(wrong) if wrong else f"{out}: all files are as they were written")
        return int(bool(wrong))
    limit = preparing.Tolerance.parse(max_bad)
    if merge:
        _tell(out, preparing.merge(out, limit))
        return 0
    if not inputs:
        raise UserError(f"nothing to prepare: give files or directories before {out}")
    if tokenizer is None:
        raise UserError(
            "give the tokenizer: --tokenizer TOKENIZER, a tokenizer.json or the directory that holds it; a run that "
            "was given texts and none has trained one, RUN/tokenizer"
        )
    if workers is not None and workers < 1:
        raise UserError(f"workers = {workers}: must be at least 1")
    options = preparing.Options(
        **({"suffixes": suffixes} if suffixes else {}),
        text_field=text_field,
        record_bytes=_bytes("max_record_mb", max_record_mb),
        part_bytes=_bytes("part_mb", part_mb),
        shard_tokens=shard_tokens,
    )
    share = None if job is None else preparing.Job.parse(job)
    made_with = tokenizers.load(tokenizer, bos_token, eos_token)
    with _progress() as show:
        index = preparing.prepare(
            inputs,
            out,
            made_with,
            options,
            workers=workers or len(os.sched_getaffinity(0)),
            job=share,
            tolerance=limit,
            progress=show,
        )
    if index is None:
        print(f"done: job {job} of {out}")
        print(f"when all jobs are done: rnope prepare --merge {shlex.quote(str(out))}")
    else:
        _tell(out, index)
    return 0


def _bytes(name: str, megabytes: float) -> int:
    from rnope_jax.errors import UserError

    if not (megabytes > 0 and math.isfinite(megabytes)):
        raise UserError(f"{name} = {megabytes}: must be a number of megabytes, more than 0")
    return max(1, int(megabytes * 2**20))


def _tell(out: Path, index: dict[str, Any]) -> None:
    print(f"done: {out}: {index['documents']:,} documents, {index['tokens']:,} tokens, {index['text_bytes']:,} bytes")
    print(f"  read        {index['files']:,} files with {index['records']:,} records")
    if index["bad"]:
        print(f"  bad         {index['bad']:,} records, listed in {out}/quarantine.jsonl")
    if index["empty"]:
        print(f"  empty       {index['empty']:,} records without text")
    if index["empty_files"]:
        print(f"  empty       {index['empty_files']:,} files without a byte")
    if index["other_files"]:
        print(f"  left out    {index['other_files']:,} files of directories, by their names (--suffixes)")
    print("next:")
    print(f"  python train.py CONFIG --data.corpus {shlex.quote(str(out))}")


@contextmanager
def _progress() -> Iterator[Any]:
    """Yields what shows progress: a live line on a terminal, a line now and then elsewhere."""
    if not sys.stdout.isatty():
        yield _Lines()
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns) as bar:
        task = bar.add_task("preparing", total=None)
        yield lambda made: bar.update(task, total=made.of, completed=made.parts, description=_line(made))


class _Lines:
    def __init__(self) -> None:
        self._last = time.monotonic()

    def __call__(self, made: "Progress") -> None:
        if time.monotonic() - self._last >= _LINES:
            self._last = time.monotonic()
            print(_line(made), flush=True)


def _line(made: "Progress") -> str:
    rate = made.tokens / max(made.seconds, 1e-9)
    bad = f", {made.bad:,} bad records" if made.bad else ""
    return f"{made.parts:,} of {made.of:,} parts, {made.tokens:,} tokens, {rate / 1e6:.2f} Mtok/s{bad}"
