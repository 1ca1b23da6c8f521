"""How a measurement is kept: what was found, on what machine, with which versions, by which command."""

import json
import os
import platform
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"

_PACKAGES = (
    *("jax", "jaxlib", "flax", "orbax-checkpoint", "numpy", "tokenizers", "torch", "transformers"),
    # On NVIDIA GPUs.
    *("jax-cuda13-plugin", "jax-cuda12-plugin", "nvidia-cudnn-cu13", "nvidia-cudnn-cu12", "triton", "flash-attn"),
)


def record(name: str, found: dict[str, Any], *, variant: str = "", folder: Path = RESULTS) -> Path:
    """Writes NAME.json, or NAME_VARIANT.json, into a directory."""
    kept = {
        "name": name,
        "date": now(),
        # Where somebody keeps scratch files says nothing.
        "command": " ".join(
            ["python", "-m", f"benchmarks.{name}", *("WORK" if "/" in word else word for word in sys.argv[1:])]
        ),
        "machine": machine(),
        "versions": {package: version for package in _PACKAGES if (version := _version(package))},
        "found": found,
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}{'_' if variant else ''}{variant}.json"
    path.write_text(json.dumps(kept, indent=2) + "\n")
    return path


def into_page(page: Path, program: str, text: str) -> None:
    """Puts text into a page of the documentation, between the comments that say which program has written it."""
    begin, end = f"<!-- written by benchmarks.{program} -->", "<!-- end -->"
    before, rest = page.read_text().split(begin)
    after = rest.split(end, 1)[1]
    page.write_text(f"{before}{begin}\n\n{text.strip()}\n\n{end}{after}")


def now() -> str:
    """When something was measured."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")


def machine() -> dict[str, Any]:
    """Processor, cores, memory, load at this moment."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "memory_gib": round(memory, 1),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
