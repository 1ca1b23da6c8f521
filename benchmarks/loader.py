"""How fast batches are made, and whether training ever waits for them.

    python -m benchmarks.loader WORK [--tokens MILLIONS] [--steps N]    writes its table into docs/mixtures.md

WORK is a directory for scratch files. Synthetic documents, lengths as in web text (log-normal, mean about 900 tokens)
and, as the long source of a mixture, from 20k to 120k tokens. The files are in the cache of the system; each case
reads every row once, through the thread that training reads with. Beside wall time stands the processor time of all
threads, because other work on the machine does not change that. The last case trains the quickstart and takes the
share of its time that it waited for data from its own reports.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import into_page, record
from rnope_jax.config import ScheduleConfig, SourceConfig, StageConfig
from rnope_jax.data import Mixture, training_batches
from rnope_jax.data.best_fit import best_fit
from rnope_jax.data.shards import Shard, ShardWriter

ROOT = Path(__file__).parents[1]


@dataclass
class Disk:
    """Documents in one file with checksums, as `rnope prepare` writes them."""

    shard: Shard
    starts: np.ndarray
    answers: bool = False

    def __len__(self) -> int:
        return self.shard.count

    @property
    def where(self) -> str:
        return str(self.shard.path)

    def read(self, first: int, stop: int) -> np.ndarray:
        return self.shard.read(first, stop).astype(np.int32)

    def counted(self, first: int, stop: int) -> np.ndarray | None:
        return self.read(first, stop) % 2 == 0 if self.answers else None

    def name(self, document: int) -> str:
        return str(document)

    @property
    def fingerprint(self) -> dict[str, Any]:
        return {}

    @property
    def text_bytes(self) -> int | None:
        return None


def lengths(millions: float, *, long: bool, seed: int) -> np.ndarray:
    """Lengths of documents of so many tokens together."""
    rng, total = np.random.default_rng(seed), int(millions * 1e6)
    if long:
        drawn = rng.integers(20_000, 120_000, total // 20_000)
    else:
        drawn = np.clip(rng.lognormal(6.1, 1.2, total // 300), 8, 100_000).astype(np.int64)
    return drawn[np.cumsum(drawn) <= total]


def disk(work: Path, name: str, sizes: np.ndarray) -> Disk:
    """Random tokens in documents of these lengths."""
    work.mkdir(parents=True, exist_ok=True)
    writer, total = ShardWriter(work, name, np.dtype("<u2"), int(sizes.sum())), int(sizes.sum())
    rng = np.random.default_rng(0)
    for first in range(0, total, 1 << 22):
        writer.write(rng.integers(3, 60_000, min(1 << 22, total - first), dtype=np.uint16))
    writer.close()
    (made,) = writer.written
    shard = Shard(
        path=work / f"{made['name']}.bin",
        count=total,
        dtype="<u2",
        checksums=work / f"{made['name']}.crc",
        checksums_sha256=str(made["checksums_sha256"]),
    )
    return Disk(shard, np.cumsum(sizes) - sizes)


def stage(length: int, *sources: SourceConfig) -> StageConfig:
    """Batches of half a million tokens, as the paper has them."""
    schedule = ScheduleConfig(peak=1e-3)
    rows = max(1, (1 << 19) // length)
    return StageConfig(name="s", steps=1, sequence_length=length, batch_size=rows, schedule=schedule, mixture=sources)


def cases(short: Disk, long: Disk) -> Iterator[tuple[str, StageConfig, list[Disk]]]:
    """Name, stage and stores of what is measured."""
    whole = SourceConfig(name="whole")
    fit = SourceConfig(name="fit", packing="best_fit")
    for length in (512, 2048, 8192, 65_536):
        yield f"windows of {length:,}", stage(length, whole), [short]
    for length in (2048, 8192, 65_536):
        yield f"best fit into {length:,}", stage(length, fit), [short]
    yield "best fit into 8,192, prompts masked", stage(8192, fit), [Disk(short.shard, short.starts, answers=True)]
    yield (
        "3 : 1 of 8,192 and 65,536, best fit",
        stage(
            65_536,
            SourceConfig(name="short", weight=3, packing="best_fit", sequence_length=8192),
            SourceConfig(name="long", weight=1, packing="best_fit"),
        ),
        [short, long],
    )
    yield (
        "0.7 : 0.2 : 0.1, windows and best fit, 8,192",
        stage(
            8192,
            SourceConfig(name="a", weight=0.7),
            SourceConfig(name="b", weight=0.2, packing="best_fit"),
            SourceConfig(name="c", weight=0.1),
        ),
        [short, short, long],
    )


def measure(name: str, stage: StageConfig, stores: list[Disk]) -> dict[str, Any]:
    """Makes as many batches as there are rows in the largest source, after one reading that checks all checksums."""
    began = time.process_time()
    mixture = Mixture(stage, stores, (0, 0))
    planned = time.process_time() - began
    steps = max(len(source.rows) for source in mixture.sources) // stage.batch_size
    mixture.stage = StageConfig.from_dict({**stage.to_dict(), "steps": steps})
    for _ in training_batches(mixture):
        pass
    began, began_processor, tokens = time.perf_counter(), time.process_time(), 0
    for batch in training_batches(mixture):
        tokens += batch.tokens.size
    wall, processor = time.perf_counter() - began, time.process_time() - began_processor
    found = {
        "case": name,
        "million_tokens": round(tokens / 1e6, 1),
        "mtok_per_second": round(tokens / wall / 1e6, 1),
        "mtok_per_processor_second": round(tokens / processor / 1e6, 1),
        "padding": {source.config.name: round(source.rows.padding, 5) for source in mixture.sources},
        "planned_in_processor_seconds": round(planned, 2),
    }
    print(
        f"{name:<46} {found['mtok_per_second']:7.1f} Mtok/s, {found['mtok_per_processor_second']:7.1f} per processor "
        f"second, padding {max(found['padding'].values()):.2%}, planned in {planned:.2f} s",
        flush=True,
    )
    return found


def planning() -> dict[str, Any]:
    """Best-fit packing of ten million documents."""
    sizes = np.clip(np.random.default_rng(1).lognormal(6.1, 1.2, 10_000_000), 2, 8192).astype(np.int64)
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    rows = best_fit(sizes, 8192)[1]
    seconds = time.process_time() - began
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    found = {
        "documents": len(sizes),
        "rows": rows,
        "padding": round(1 - float(sizes.sum()) / (rows * 8192), 6),
        "processor_seconds": round(seconds, 2),
        "peak_memory_mib": round(grown / 1024),
    }
    print(f"10,000,000 documents packed in {seconds:.1f} s, {grown / 1024:.0f} MiB more at the peak")
    return found


def quickstart(work: Path, steps: int) -> dict[str, Any]:
    """The share of its steps' time that the quickstart waits for data."""
    run = work / "quickstart"
    command = [sys.executable, "train.py", "configs/quickstart.py", "--run-dir", str(run), "--evaluation.prompts"]
    command += ["--stages.0.steps", str(steps), "--stages.0.schedule.warmup-steps", "10"]
    command += ["--evaluation.every", "100000"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    waits = [line["data_wait"] for line in lines if "data_wait" in line]
    found = {
        "steps": steps,
        "data_wait_mean": round(float(np.mean(waits)), 6),
        "data_wait_worst_interval": round(max(waits), 6),
        "tokens_per_second": round(float(np.median([line["tokens_per_second"] for line in lines if "loss" in line]))),
    }
    worst = f"{max(waits):.4%} in the worst interval"
    print(f"quickstart: waits for data {found['data_wait_mean']:.4%} of the time, {worst}")
    return found


def main() -> None:
    """Measures and records."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--tokens", type=float, default=60, help="millions of tokens in each of the two corpora")
    parser.add_argument("--steps", type=int, default=60, help="of the quickstart; 0 leaves it out")
    options = parser.parse_args()
    short = disk(options.work, "short", lengths(options.tokens, long=False, seed=0))
    long = disk(options.work, "long", lengths(options.tokens, long=True, seed=1))
    found: dict[str, Any] = {
        "corpora": {
            "short": {"documents": len(short.starts), "tokens": len(short)},
            "long": {"documents": len(long.starts), "tokens": len(long)},
        },
        "batches": [measure(*case) for case in cases(short, long)],
        "planning": planning(),
    }
    if options.steps:
        found["quickstart"] = quickstart(options.work, options.steps)
    kept = record("loader", found)
    into_page(ROOT / "docs" / "mixtures.md", "loader", page(json.loads(kept.read_text())))
    print(kept)


def page(kept: dict[str, Any]) -> str:
    """What was found, as text."""
    found, machine = kept["found"], kept["machine"]
    lines = [
        f"Measured by `{kept['command']}` ({kept['date'].split()[0]}, `benchmarks/results/loader.json`) on",
        f"{machine['cores']} cores of an {machine['processor']} whose load was {machine['load']:.1f} at the end;",
        "where that is more than the cores, the second column, millions of tokens for each second of",
        "processor time of all threads, tells more than the first.",
        "Batches of half a million tokens, with positions, segments and masks, from files with checksums.",
        "",
        "| rows | Mtok/s, wall | Mtok/s, processor | padding |",
        "| --- | --- | --- | --- |",
    ]
    for case in found["batches"]:
        rates = f"{case['mtok_per_second']:.3g} | {case['mtok_per_processor_second']:.3g}"
        lines.append(f"| {case['case']} | {rates} | {max(case['padding'].values()):.2%} |")
    if quick := found.get("quickstart"):
        lines += [
            "",
            f"In {quick['steps']} steps of the quickstart in the same run, training waited for data",
            f"{quick['data_wait_mean']:.2%} of the time, and {quick['data_wait_worst_interval']:.2%}",
            "in the worst interval.",
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
