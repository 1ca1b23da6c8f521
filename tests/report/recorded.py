"""Run directories as training and the evaluations leave them, written down without doing either."""

import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from rnope_jax.config import Config, ScheduleConfig, StageConfig
from rnope_jax.evaluation.analysis.measure import Measured, bin_edges
from rnope_jax.evaluation.analysis.probe import CONTEXT, NEEDLE
from rnope_jax.evaluation.analysis.results import Analysis, summarize, to_dict
from rnope_jax.layers import Pattern, rnope_swa
from rnope_jax.run import Run
from tests.helpers import tiny_model

LENGTHS, DEPTHS = (256, 512, 1024), (0.0, 50.0, 100.0)


def config(name: str, run_dir: Path, pattern: Pattern | None = None, **changes: Any) -> Config:
    """Two stages, eight layers."""
    first = StageConfig(
        name="short", steps=60, sequence_length=512, batch_size=4, schedule=ScheduleConfig(peak=3e-3, warmup_steps=10)
    )
    defaults = {
        "name": name,
        "model": tiny_model(pattern=pattern or rnope_swa(window=64), num_layers=8),
        "stages": (first, replace(first, name="long", steps=40, sequence_length=1024, batch_size=2)),
        "run_dir": str(run_dir),
    }
    return Config(**{**defaults, **changes})


def record(made: Config, *, parts: bool = True, per_head: bool = True, seed: int = 0) -> Path:
    """Writes a run; with `parts` everything that can be on a page, without only its configuration.

    With `per_head`, attention was kept of every head.
    """
    run = Run(made.directory)
    run.path.mkdir(parents=True)
    run.record(made)
    if not parts:
        return run.path
    rng = np.random.default_rng(seed)
    run.metrics.write_text("".join(json.dumps(line) + "\n" for line in _lines(rng, seed)))
    run.record_data(_fingerprint(), _rows())
    run.samples.write_text("--- 'def main(' goes on:\ndef main(args):\n    return 0\n")
    results = run.path / "evaluations" / "step-100"
    results.mkdir(parents=True)
    about = {"model": {"path": str(run.path), "step": 100, "training_context": 512, "dtype": "float32"}}
    for name, found in _results(rng, seed).items():
        (results / f"{name}.json").write_text(json.dumps(about | found))
    (results / "attention.json").write_text(json.dumps(_attention(rng, made, per_head)))
    return run.path


def _lines(rng: np.random.Generator, seed: int) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = [_held_out(0, 8.3, final=False)]
    for step in range(1, 101):
        loss = 2.5 + 0.2 * seed + 5.5 * math.exp(-step / 22) + rng.normal(0, 0.06)
        lines.append(
            {
                "step": step,
                "stage": "short" if step <= 60 else "long",
                "loss": loss,
                "z": 50.0,
                "gradient_norm": float("nan") if step == 33 else 0.6 + 2 * math.exp(-step / 15) + rng.uniform(0, 0.2),
                "learning_rate": 3e-3 * min(1, step / 10) * (0.5 + 0.5 * math.cos(math.pi * step / 100)),
                "skipped": int(step == 33),
                "tokens_per_second": 6800 - 400 * seed + rng.normal(0, 120),
                "tokens_per_second_per_device": 6800.0,
                "model_tflops": 0.11 - 0.01 * seed + rng.normal(0, 0.002),
                "six_n_tflops": 0.1,
                "memory_gib": 1.2 + 0.25 * (step > 60),
                "data_wait": abs(rng.normal(0, 0.002)),
                "goodput": 0.9 - 0.2 / step,
            }
        )
        if step % 20 == 0:
            lines.append(_held_out(step, 2.6 + 0.2 * seed + 5.5 * math.exp(-step / 22), final=step == 100))
    return lines


def _held_out(step: int, loss: float, *, final: bool) -> dict[str, Any]:
    return {"step": step, "held_out_loss": loss, "held_out_bits_per_byte": loss * 0.402, "final": final}


def _fingerprint() -> dict[str, Any]:
    store = {"documents": 1234, "tokens": 5_678_901, "tokenizer": "aa", "files": {"tokens.bin": "bb"}}
    return {
        "tokenizer": "8c5b666b4708411f56b1",
        "stages": {"short": {"short": store}, "long": {"books": store, "code": {**store, "documents": 77}}},
        "held_out": {**store, "documents": 13, "tokens": 45_678},
    }


def _rows() -> dict[str, Any]:
    row = {"source": "short", "share": 1.0, "documents": 1234, "rows": 11_091, "packing": "concat"}
    row |= {"padding": 0.0, "cut": 1011, "read": 0.0216}
    books = {**row, "source": "books", "share": 0.6667, "packing": "best_fit", "padding": 0.0123, "cut": 9}
    return {"short": [row], "long": [books, {**books, "source": "code", "share": 0.3333, "padding": 0.0456}]}


def _results(rng: np.random.Generator, seed: int) -> dict[str, Any]:
    good = [[max(0.0, 100 - 18 * i - 14 * j * (1 + seed)) for i in range(len(LENGTHS))] for j in range(len(DEPTHS))]
    edges = [round(2 ** (step / 2)) for step in range(2, 21)]
    losses = [
        {"from": a, "to": b - 1, "loss": 2.4 + 4 / math.log2(a + 2) + 0.1 * seed + 0.05 * rng.normal()}
        for a, b in pairwise(edges)
    ]
    tasks = ("niah_single_1", "niah_multikey_2", "vt", "qa_1")
    cells = [
        {
            "task": task,
            "length": length,
            "score": float(rng.integers(0, 101)),
            "error": 4.5,
            "samples": 20,
            "as_defined": length > 256,
        }
        for task in tasks
        for length in LENGTHS
    ]
    return {
        "loss_by_position": {"rows": 16, "by_length": [], "by_position": losses},
        "needle": {"lengths": LENGTHS, "depths": DEPTHS, "scores": good, "samples": 5, "mean": 50.0},
        "ruler": {"cells": cells, "means": {"tracing": {str(n): 40.0 for n in LENGTHS}}},
        "lm_eval": {"results": {"hellaswag": {"alias": "hellaswag", "acc,none": 0.2561, "acc_stderr,none": 0.004}}},
    }


def _attention(rng: np.random.Generator, made: Config, per_head: bool) -> dict[str, Any]:
    kinds = made.model.layer_kinds
    shape = (len(kinds), made.model.num_heads)
    findings = []
    for length in LENGTHS:
        mass = rng.dirichlet((2, 1, 6, 2), shape)
        middle = np.linspace(-1, 1, len(bin_edges(length)) - 1)
        found = np.array([kind.rope_theta is None for kind in kinds])[:, None]
        curve = (1e-3 + 0.02 * np.exp(-((middle * 9) ** 2)) * found) * rng.uniform(0.8, 1.2, (len(kinds), middle.size))
        for layer, kind in enumerate(kinds):
            if kind.window is not None:  # out of reach: other text has it all
                mass[layer, :, CONTEXT] += mass[layer, :, NEEDLE]
                mass[layer, :, NEEDLE] = 0
        measured = Measured(
            length=length,
            depth=0.5,
            kinds=kinds,
            mass=mass,
            entropy=np.full(shape, 6.5),
            relative_entropy=np.full(shape, 0.7),
            curve=curve,
            even=0.05,
        )
        findings.append(summarize(measured, per_head=per_head))
    name = Path(made.directory).name
    analysis = Analysis(name, 100, tuple(map(str, kinds)), trained_context=512, findings=tuple(findings))
    return to_dict([replace(analysis, model="another"), analysis], settings={})
