"""The proof of an export: PyTorch loads it in a process of its own and computes the same logits."""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rnope_jax import flops
from rnope_jax.config import ModelConfig
from rnope_jax.errors import UserError
from rnope_jax.interop.kinds import attention, is_cohere1
from rnope_jax.interop.source import Source
from rnope_jax.interop.targets import TARGETS, TargetName

#: Largest difference that is rounding, relative to the largest logit.
TOLERANCE = 1e-4
GGUF_TOLERANCE = 5e-3
GGUF_TOLERANCE_HALF = 3e-2


#: Tokens of a comparison where no window says how many are needed.
_LENGTH = 256

#: Seconds after which a comparison is given up.
_LIMIT = 4 * 3600


def verify(
    directory: Path, source: Source, dtype: np.dtype | None, target: TargetName, report: Callable[[str], None]
) -> float | None:
    """Compares logits past twice the window with transformers; says so where that is not possible.

    Args:
      directory: the export.
      source: what was exported.
      dtype: type of the exported weights; ours are rounded to it before they are used.
      target: the program that the export is for.
      report: told of the outcome.

    Returns:
      The largest difference relative to the largest logit, or None if nothing could be compared.

    Raises:
      UserError: if the logits differ, or PyTorch cannot load the export.
    """
    found, program = attention(source.model), TARGETS[target]
    reason = _missing("torch", "transformers") or _too_large(source.model)
    if program.norms_hybrids and found.qk_norm and not is_cohere1(found):
        reason = f"transformers has no such architecture, {target} has"
    if reason:
        report(f"not verified: {reason}")
        return None
    extra = 0 if is_cohere1(found) else program.extra_keys
    return _compare(
        "transformers", directory, source, dtype, TOLERANCE, report, extra_keys=extra, start=program.add_bos
    )


def verify_gguf(file: Path, source: Source, dtype: np.dtype | None, report: Callable[[str], None]) -> float | None:
    """As `verify`, with llama.cpp, which keeps keys and values in half precision."""
    if reason := _missing("llama_cpp") or _too_large(source.model):
        report(f"not verified: {reason}")
        return None
    tolerance = GGUF_TOLERANCE if dtype is None or dtype.itemsize == 4 else GGUF_TOLERANCE_HALF
    return _compare("llama.cpp", file, source, dtype, tolerance, report)


def _compare(
    program: str,
    made: Path,
    source: Source,
    dtype: np.dtype | None,
    tolerance: float,
    report: Callable[[str], None],
    *,
    extra_keys: int = 0,
    start: bool = True,
) -> float:
    """Compares in another process.

    Args:
      program: which program.
      made: the export.
      source: what was exported.
      dtype: as for `verify`.
      tolerance: largest difference, relative to the largest logit.
      report: told of the outcome.
      extra_keys: how many more than `sliding_window` says the program of the export lets a query see.
      start: whether the export's tokenizer must put the start token in front.
    """
    window = attention(source.model).window
    length = 2 * window + 64 if window else _LENGTH
    report(f"verifying: {length} tokens through {program}")
    task = {
        "program": program,
        "made": str(made.absolute()),
        "source": str(source.path.absolute()),
        "step": source.step if source.config else None,
        "dtype": dtype.name if dtype else None,
        "extra_keys": extra_keys,
        "length": length,
        "start": start,
    }
    found = _run(task)
    name = f"{program} {found['version']}"
    if not found["error"] <= tolerance:
        raise UserError(
            f"the export was not kept: logits differ by {found['error']:.2g} of the largest from those of {name}; "
            "--no-verify keeps it, to be looked at"
        )
    if found["text"] is not None:
        raise UserError(f"the export was not kept: {name} gives other tokens for {found['text']!r}")
    report(f"verified: logits equal those of {name} to {found['error']:.1e} of the largest")
    return found["error"]


def _run(task: dict[str, Any]) -> dict[str, Any]:
    """Runs `compare` in another process."""
    with tempfile.TemporaryDirectory() as temporary:
        ask, answer = Path(temporary) / "ask.json", Path(temporary) / "answer.json"
        ask.write_text(json.dumps(task))
        # On the CPU whatever the machine has: an accelerator rounds float32 products.
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        # -P: the working directory may be one that nobody vouches for, with a jax.py in it. The package
        # itself is found where it is, installed or not.
        paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
        command = [sys.executable, "-P", "-m", "rnope_jax.interop.compare", str(ask), str(answer)]
        try:
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_LIMIT)
        except subprocess.TimeoutExpired as error:
            raise UserError(f"verification took over {_LIMIT} s; export with --no-verify") from error
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
            raise UserError(f"the export was not kept: {task['program']} cannot load or run it ({last[0][:300]})")
        return json.loads(answer.read_text())


def _missing(*packages: str) -> str | None:
    for package in packages:
        if importlib.util.find_spec(package) is None:
            how = "pip install llama-cpp-python" if package == "llama_cpp" else "pip install 'rnope-jax[interop]'"
            return f"{package} is not installed ({how})"
    return None


def _too_large(model: ModelConfig) -> str | None:
    # Either side holds its weights as float32, one after the other.
    needed = 4.5 * flops.parameters(model).total
    available = _available_memory()
    if available is None or needed < available:
        return None
    return f"it needs {needed / 1e9:.0f} GB of memory and {available / 1e9:.0f} GB are free"


def _available_memory() -> int | None:
    """Bytes that can be had without swapping; None where the system does not tell."""
    try:
        lines: dict[str, Any] = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
