"""Results of runs as `rnope evaluate` and `rnope analyze` write them, with chosen numbers."""

import json
from pathlib import Path
from typing import Any

from rnope_jax.evaluation.study.findings import Run

LENGTHS = (256, 1024)
DEPTHS = (0.0, 50.0)
PARTS = ("begin", "needle", "context", "qc")


def write_run(root: Path, variant: str, seed: int, *, settings: dict[str, Any] | None = None, **numbers: Any) -> Run:
    """A run in which every number is 0 but those given, each for every length or by length."""

    def number(name: str, length: int) -> float:
        given = numbers.get(name, 0.0)
        return given[length] if isinstance(given, dict) else given

    def group(name: str, length: int) -> dict[str, Any]:
        return {
            "layers": 3,
            "mass": {part: number(f"{name}_{part}", length) for part in PARTS},
            "curve": [0.1, 0.2],
            "entropy_bits": number(f"{name}_entropy", length),
            "relative_entropy": number(f"{name}_relative", length),
        }

    kinds = ["nope", "rope"] if variant.startswith("rnope") else [variant if variant == "nope" else "rope"]
    files = {
        "loss_by_position.json": {
            "by_length": [
                {"length": n, "loss": number("loss", n), "loss_last_quarter": number("late", n)} for n in LENGTHS
            ],
            "by_position": [{"from": 1, "to": 3, "loss": 5.0}, {"from": 4, "to": 9, "loss": number("loss", 256)}],
        },
        "needle.json": {
            "lengths": list(LENGTHS),
            "depths": list(DEPTHS),
            "scores": [[number("needle", n) for n in LENGTHS], [number("needle_deep", n) for n in LENGTHS]],
        },
        "ruler.json": {
            "cells": [
                {"task": task, "length": n, "score": number(task, n)} for task in ("easy", "hard") for n in LENGTHS
            ]
        },
        "attention.json": {
            "models": [
                {
                    "model": "a directory",
                    "step": 20,
                    "trained_context": 256,
                    "pattern": ["full + RoPE 10000"] * 3,
                    "findings": [
                        {
                            "length": n,
                            "depth": 0.5,
                            "edges": [10, 20, 30],
                            "groups": {name: group(name, n) for name in ["all", *kinds]},
                            "even": 0.1,
                            "retrieval_heads": [],
                            "heads": None,
                        }
                        for n in LENGTHS
                    ],
                }
            ]
        },
    }
    directory = root / f"{variant}-{seed}"
    directory.mkdir(parents=True)
    for name, data in files.items():
        (directory / name).write_text(json.dumps({"settings": settings or {"samples": 2}, **data}))
    return Run(variant, seed, directory)
