"""What is claimed of an H100, and whether the results of benchmarks/gpu.py bear it out."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Largest difference from the definition in float32, relative to its largest value.
NEAR = {"float32": 1e-4, "bfloat16": 2e-2}

#: Length: times by which windows of 4096 are faster than full attention, forward and backward.
FASTER = {32_768: 3.5, 131_072: 12.0}

#: Most time per visible pair of packed rows, as a multiple of that of rows of one document.
PACKED = 1.15

#: Length: share of a large matrix product's rate that a training step reaches, with exact FLOPs.
SHARE = {8192: 0.55, 32_768: 0.50, 131_072: 0.45}

#: Part: how many times the time of our step transformers' best takes.
BESIDE = {"beside_8k": 1.5, "beside_32k": 3.0}

#: Parts about attention alone.
ATTENTION = ("attention_32k", "attention_128k")

#: How many times our time for a token transformers' best takes; our share of the bandwidth bound.
DECODE, BANDWIDTH = 3.0, 0.60


@dataclass(frozen=True)
class Claim:
    """A line of the verdict."""

    what: str
    found: float | str
    """A number, or why there is none."""
    bound: float
    most: bool = False
    """Whether the bound is the most that is allowed, not the least."""

    @property
    def holds(self) -> bool | None:
        """None if it was not measured."""
        if isinstance(self.found, str):
            return None
        return self.found <= self.bound if self.most else self.found >= self.bound

    def __str__(self) -> str:
        verdict = {True: "PASS", False: "FAIL", None: "    "}[self.holds]
        found = self.found if isinstance(self.found, str) else f"{self.found:.4g}"
        return f"{verdict}  {self.what}: {found} ({'at most' if self.most else 'at least'} {self.bound:g})"


def judged(folder: Path) -> Iterator[Claim]:
    """A line for each claim, from the results in a directory."""
    yield from _agreement(_found(folder, "agreement"))
    attention = [case for part in ATTENTION for case in _found(folder, part).get("cases", [])]
    cases = {(case["length"], case["window"] is not None, case["packed"]): case for case in attention}
    yield from _windows(cases)
    yield from _packed(cases)
    yield from _train(_found(folder, "train"))
    for part, least in BESIDE.items():
        yield _beside(part, _found(folder, part), least)
    yield from _decode(_found(folder, "decode"))


def _found(folder: Path, part: str) -> dict[str, Any]:
    path = folder / f"gpu_{part}.json"
    return json.loads(path.read_text())["found"] if path.exists() else {}


_NOT = "not measured"


def _agreement(found: dict[str, Any]) -> Iterator[Claim]:
    measured = found.get("agreement", {})
    for name in dict.fromkeys(key.split(",")[0] for key in measured) or ["pallas_gpu"]:
        for dtype, most in NEAR.items():
            errors = [
                error
                for key, values in measured.items()
                if key.startswith(f"{name},") and key.endswith(dtype) and not isinstance(values, str)
                for error in values
            ]
            # What is not a number is worst.
            worst = max(errors, key=lambda error: (math.isnan(error), error)) if errors else _NOT
            yield Claim(f"{name} in {dtype} from the definition", worst, most, most=True)


def _windows(cases: dict[tuple[int, bool, bool], dict[str, Any]]) -> Iterator[Claim]:
    for length in sorted({length for length, *_ in cases} | set(FASTER)):
        window, full = (_times(cases.get((length, windowed, False))) for windowed in (True, False))
        ours, least = [name for name in ("pallas_gpu", "cudnn") if name in window], FASTER.get(length, 1.0)
        for name in ("pallas_gpu", "cudnn"):
            ratio = full[name] / window[name] if name in full and name in window else _NOT
            yield Claim(f"{name}: windows faster than full attention, {length:,} tokens", ratio, least)
        ratio = min(full.values()) / min(window[name] for name in ours) if ours and full else _NOT
        yield Claim(f"our best window faster than anybody's full attention, {length:,} tokens", ratio, least)


def _packed(cases: dict[tuple[int, bool, bool], dict[str, Any]]) -> Iterator[Claim]:
    for length in sorted({length for length, *_ in cases} | set(FASTER)):
        for windowed in (True, False):
            per_pair = [
                times["pallas_gpu"] / case["pairs"]
                for case in (cases.get((length, windowed, packed)) for packed in (True, False))
                if case and "pallas_gpu" in (times := _times(case))
            ]
            ratio = per_pair[0] / per_pair[1] if len(per_pair) == 2 else _NOT
            kind = "windows" if windowed else "full attention"
            yield Claim(
                f"packed rows beside one document, per pair, {kind}, {length:,} tokens", ratio, PACKED, most=True
            )


def _times(case: dict[str, Any] | None) -> dict[str, float]:
    """Of forward and backward pass, of those contenders that have both: one may be far slower in its first call."""
    contenders = case["contenders"] if case else {}
    return {name: each["both_ms"] for name, each in contenders.items() if "both_ms" in each}


def _train(found: dict[str, Any]) -> Iterator[Claim]:
    cases = {case["length"]: case for case in found.get("cases", [])}
    for length in sorted(cases.keys() | SHARE.keys()):
        case = cases.get(length, {})
        share = case.get("share_of_matmul", case.get("failure", _NOT))
        layers = f", {case['model']['num_layers']} layers" if case else ""
        yield Claim(
            f"training step, share of a matrix product, {length:,} tokens{layers}", share, SHARE.get(length, 0.0)
        )


def _beside(part: str, found: dict[str, Any], least: float) -> Claim:
    failures = {name: each["failure"] for name, each in found.get("settings", {}).items() if "failure" in each}
    said = "; ".join(f"{name}: {failure}" for name, failure in failures.items()) or _NOT
    return Claim(f"training step beside transformers' best, {part}", found.get("best_peer_ratio", said), least)


def _decode(found: dict[str, Any]) -> Iterator[Claim]:
    for case in found.get("cases", []) or [{}]:
        where = f", batch {case['batch']} after {case['context']:,} tokens" if case else ""
        said = "; ".join(f"{name}: {why}" for name, why in case.get("failures", {}).items()) or _NOT
        yield Claim(f"a token beside transformers' best{where}", case.get("best_peer_ratio", said), DECODE)
        share = case.get("rnope_jax", {}).get("share_of_bandwidth", said)
        yield Claim(f"a token, share of the bandwidth bound{where}", share, BANDWIDTH)
