"""Directories that a run writes to: space, permission, and whether the file system keeps what it acknowledges."""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from rnope_jax.config import Config
from rnope_jax.doctor.finding import Finding
from rnope_jax.files import write_bytes

#: Where runs go that no configuration says more about.
_RUNS = Path("runs")

#: Less than this is told of, in bytes.
_LITTLE = 2 * 2**30


def directories(config: Config | None, environment: Mapping[str, str]) -> Iterator[Finding]:
    """The run directory, and that of compiled programs where there is one."""
    yield from directory("run directory", _RUNS if config is None else config.directory)
    cache = config.logging.compile_cache if config is not None else None
    cache = cache or environment.get("JAX_COMPILATION_CACHE_DIR")
    if cache:
        yield from directory("compile cache", Path(cache).expanduser())


def directory(name: str, path: Path) -> Iterator[Finding]:
    """Space in a directory, which need not exist, and a small file written there as a run writes its own."""
    there = nearest(path)
    where = str(path) if there == path else f"{path} (to be made in {there.absolute()})"
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        what = "cannot be written" if there.is_dir() else f"{there} is not a directory"
        yield Finding("disk", name, f"{where}: {what}", "stop", "give another directory, or change its permissions")
        return
    free = shutil.disk_usage(there).free
    space = f"{where}: {free / 2**30:,.1f} GiB free"
    if free < _LITTLE:
        yield Finding("disk", name, space, "note", "make room: checkpoints and data are kept there")
    else:
        yield Finding("disk", name, space)
    yield _tried(f"{name}, writing", there)


def nearest(path: Path) -> Path:
    """The path, or the nearest of its parents that exists."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _tried(name: str, there: Path) -> Finding:
    """Writes a file aside, syncs it and its directory, renames it and locks it, as runs do; then removes it."""
    try:
        with tempfile.TemporaryDirectory(prefix=".rnope-doctor-", dir=there) as aside:
            file = Path(aside) / "probe"
            began = time.perf_counter()
            write_bytes(file, b"\0" * 2**16)
            passed = time.perf_counter() - began
            with file.open("rb") as handle:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        value = f"a file could not be written, synced, renamed and locked: {error.strerror or error}"
        return Finding("disk", name, value, "stop", "choose a file system with fsync, rename and flock: --run-dir DIR")
    return Finding("disk", name, f"write, fsync, rename and lock work ({1e3 * passed:.0f} ms)")
