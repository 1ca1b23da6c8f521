"""The paper's comparison at study scale: trains all variants alike, measures them, writes docs/study.md.

    python -m benchmarks.study WORK [--variants rope qk_norm ...] [--seeds 0 1 2] [--jobs 2]

Every variant NAME is the function NAME_study of configs/paper.py. All see the same tokens in the same
order for the same seed: documents that repeat themselves, then the sources of the Python standard
library with documents in which facts are told and asked for (`rnope_jax.data.retrieval`), made of the
same sources. Nothing that is measured was in any. The command goes on where it was interrupted;
--report only reads what was measured.
"""

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from benchmarks.record import machine
from rnope_jax import flops
from rnope_jax.cli import config_file
from rnope_jax.cli.errors import exit_code
from rnope_jax.config import STDLIB, Config, DataConfig
from rnope_jax.data import retrieval, sources, tokenizer
from rnope_jax.errors import UserError
from rnope_jax.evaluation.outcome import leave
from rnope_jax.evaluation.study.findings import Run, read
from rnope_jax.evaluation.study.report import draw, page
from rnope_jax.files import make_directory, write_text

ROOT = Path(__file__).parent.parent

#: What is compared unless told otherwise: the paper's variants, then what later work disagrees on.
VARIANTS = (
    "rope",
    "qk_norm",
    "nope",
    "rnope_10k",
    "rnope_swa",
    "rnope_swa_small",
    "rnope_swa_first",
    "rnope_swa_log",
)

#: Options of XLA with which a process computes in one thread.
ONE_THREAD = ("--xla_cpu_multi_thread_eigen=false", "intra_op_parallelism_threads=1")

#: Lengths that are measured, as multiples of a training row.
MULTIPLES = (1, 2, 4, 8, 16)

#: Tasks of RULER that are measured: the values of the needles are numbers, as in training.
TASKS = ("niah_single_1", "niah_single_2", "niah_multikey_1")

#: Characters of the documents that repeat themselves.
REPETITIONS = 4_000_000

#: Depths of needles, in percent.
DEPTHS = (0, 50, 100)


def main() -> None:
    """Makes the data, trains and measures run by run, then writes the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("work", type=Path)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, help="of each stage; none takes those of the configuration")
    parser.add_argument(
        "--jobs", type=int, default=1, help="runs at a time, each with one thread where there are several"
    )
    parser.add_argument("--multiples", nargs="+", type=int, default=list(MULTIPLES))
    parser.add_argument("--samples", type=int, default=10, help="texts for each length, depth and task")
    parser.add_argument("--share", type=float, default=0.5, help="of the characters that are retrieval documents")
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="where study.md and figures/ go")
    parser.add_argument("--report", action="store_true", help="only write the page of what was measured")
    given = parser.parse_args()
    study = Study(given)
    if not given.report:
        study.prepare()
        study.run()
    study.report()


class Study:
    """The files of a study, and the commands that make them."""

    def __init__(self, given: argparse.Namespace):
        if not 0 < given.share < 1:
            raise UserError(f"--share {given.share}: must be between 0 and 1, both excluded")
        if given.jobs < 1:
            raise UserError(f"--jobs {given.jobs}: must be at least 1")
        self.given, self.work = given, given.work.absolute()
        self.configs = {name: self._config(name) for name in given.variants}
        config = next(iter(self.configs.values()))
        self.trained, self.stages = config.max_sequence_length, config.stages
        self.steps = [given.steps or stage.steps for stage in config.stages]
        self.lengths = [multiple * self.trained for multiple in given.multiples]

    @staticmethod
    def _config(name: str) -> Config:
        return config_file.load(f"{ROOT / 'configs' / 'paper.py'}:{name}_study")

    def prepare(self) -> None:
        """Writes what models learn from and are asked about, and the tokenizer that they share.

        Raises:
          UserError: if the directory was prepared for another study.
        """
        settings = {"share": self.given.share, "python": sys.version.split()[0], "steps": self.steps}
        file = self.work / "study.json"
        if file.exists() and (before := json.loads(file.read_text())) != settings:
            raise UserError(f"{self.work} holds a study with {before}, not {settings}; give another directory")
        split = sources.read_split((STDLIB,), DataConfig())
        texts = [document.text for document in split.train]
        wanted = sum(map(len, texts)) * self.given.share / (1 - self.given.share)
        made = {
            "text": list(split.train),
            "retrieval": list(retrieval.documents(texts, int(wanted), seed=0)),
            "repetitions": list(retrieval.repetitions(texts, REPETITIONS, seed=0)),
        }
        if not (self.work / "unseen").exists():
            with make_directory(self.work / "unseen") as target:
                for number, document in enumerate(split.held_out):
                    (target / f"{number:06}{Path(document.name).suffix}").write_text(document.text, encoding="utf-8")
        if not (self.work / "tokenizer").exists():
            size = next(iter(self.configs.values())).model.vocab_size
            known = (document.text for name in ("text", "retrieval") for document in made[name])
            tokenizer.train(known, size).save(self.work / "tokenizer")
        for name, documents in made.items():
            if not (self.work / name).exists():
                lines = self.work / f"{name}.jsonl"
                write_text(lines, "".join(json.dumps({"text": document.text}) + "\n" for document in documents))
                command = ["-m", "rnope_jax.cli.main", "prepare", str(lines), str(self.work / name)]
                self._call([*command, "--tokenizer", str(self.work / "tokenizer")])
                lines.unlink()
        write_text(file, json.dumps(settings) + "\n")

    def run_directory(self, variant: str, seed: int) -> Path:
        """Of one run."""
        return self.work / f"{variant}-{seed}"

    def results(self, variant: str, seed: int) -> Path:
        """Where the results of one run are."""
        return self.run_directory(variant, seed) / "evaluations" / f"step-{sum(self.steps)}"

    def run(self) -> None:
        """Trains and measures all runs, a whole comparison of one seed first.

        Raises:
          UserError: if one of them ends with an error; those that have begun are finished first.
        """
        with ThreadPoolExecutor(self.given.jobs) as pool:
            runs = [pool.submit(self._run, name, seed) for seed in self.given.seeds for name in self.given.variants]
            try:
                for done in as_completed(runs):
                    done.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _run(self, variant: str, seed: int) -> None:
        self.train(variant, seed)
        self.measure(variant, seed)

    def train(self, variant: str, seed: int) -> None:
        """Trains one variant, or goes on with it."""
        run = self.run_directory(variant, seed)
        if (run / "checkpoints" / str(sum(self.steps))).exists():
            return
        stages = []
        for number, (stage, steps) in enumerate(zip(self.stages, self.steps, strict=True)):
            warmup = min(stage.schedule.warmup_steps, steps // 10)
            stages += [f"--stages.{number}.steps", str(steps), f"--stages.{number}.schedule.warmup-steps", str(warmup)]
        self._call(
            [str(ROOT / "train.py"), f"{ROOT / 'configs' / 'paper.py'}:{variant}_study"],
            ["--data.corpus", str(self.work / "text"), str(self.work / "retrieval")],
            ["--data.tokenizer", str(self.work / "tokenizer" / "tokenizer.json")],
            ["--stages.0.corpus", str(self.work / "repetitions"), *stages],
            ["--data.held-out-fraction", "0.01"],  # a glance while it trains; what is measured is another text
            ["--run-dir", str(run), "--seed", str(seed), "--logging.tensorboard", "False"],
        )

    def measure(self, variant: str, seed: int) -> None:
        """Measures one run, or goes on with it."""
        run, done = self.run_directory(variant, seed), self.results(variant, seed) / "study.json"
        settings = {"lengths": self.lengths, "samples": self.given.samples, "tasks": TASKS, "depths": DEPTHS}
        settings = json.loads(json.dumps(settings))
        if done.exists() and json.loads(done.read_text()) == settings:
            return
        command = ["-m", "rnope_jax.cli.main"]
        alike = ["--lengths", *map(str, self.lengths), "--samples", str(self.given.samples)]
        unseen = str(self.work / "unseen")
        evaluations = ["--loss-by-position", "--text", unseen, "--needle", "--depths", *map(str, DEPTHS)]
        self._call([*command, "evaluate", str(run)], evaluations, ["--ruler", *TASKS, "--haystack", unseen], alike)
        self._call([*command, "analyze", str(run)], ["--haystack", unseen, "--per-head"], alike)
        write_text(done, json.dumps(settings) + "\n")

    def report(self) -> None:
        """Writes the page and its figures from all runs that were measured."""
        runs = [
            Run(variant, seed, self.results(variant, seed))
            for variant in self.given.variants
            for seed in self.given.seeds
            if (self.results(variant, seed) / "study.json").exists()
        ]
        if not runs:
            raise UserError(f"{self.work}: nothing was measured with {self.steps} steps; leave --report out")
        findings = read(runs)
        drawn = draw(findings, self.trained)
        text = page(findings, self.trained, self._about(findings.seeds), [f"figures/{name}" for name in drawn])
        self.given.out.mkdir(parents=True, exist_ok=True)
        kept = {
            "runs": [{"variant": run.variant, "seed": run.seed} for run in runs],
            "about": self._about(findings.seeds),
        }
        for path in leave(self.work / "report.json", kept, self.given.out / "figures", drawn):
            print(path)
        write_text(self.given.out / "study.md", text)
        print(self.given.out / "study.md")

    def _about(self, seeds: list[int]) -> dict[str, str]:
        config, here = next(iter(self.configs.values())), machine()
        planned = list(zip(self.stages, self.steps, strict=True))
        tokens = sum(steps * stage.batch_size * stage.sequence_length for stage, steps in planned)
        told = [
            f"{steps:,} steps of {stage.batch_size} rows of {stage.sequence_length} tokens" for stage, steps in planned
        ]
        options = [f"--steps {self.given.steps}"] if self.given.steps else []
        options += [f"--seeds {' '.join(map(str, self.given.seeds))}"]
        options += [f"--variants {' '.join(self.given.variants)}"] if self.given.variants != list(VARIANTS) else []
        options += [f"--samples {self.given.samples}", f"--share {self.given.share:g}"]
        options += [f"--multiples {' '.join(map(str, self.given.multiples))}"]
        return {
            "Command": f"`python -m benchmarks.study WORK {' '.join(options)}`",
            "Models": f"{flops.parameters(config.model).total:,} parameters, {config.model.num_layers} layers of width "
            f"{config.model.d_model}, as `configs/paper.py:NAME_study`",
            "Training": f"{', then '.join(told)}; {tokens:,} tokens in all, {config.optimizer.name}; every variant "
            "sees the same tokens",
            "Text": "words and numbers that are repeated, then sources of the Python standard library with documents "
            "that tell facts and ask for them "
            f"({self.given.share:.0%} of the characters); measured on files and facts that were in neither",
            "Seeds": ", ".join(map(str, seeds)),
            "Samples": f"{self.given.samples} texts for each length, depth and task; RULER is {', '.join(TASKS)}",
            "Machine": f"{here['cores']} cores of {here['processor']}, Python {here['python']}",
        }

    def _call(self, *parts: list[str]) -> None:
        command = [sys.executable, *(word for part in parts for word in part)]
        print("$", *command[1:], flush=True)
        ended = subprocess.run(command, cwd=ROOT, env=self._environment(), check=False)
        if ended.returncode:
            raise UserError(
                f"this command ended with code {ended.returncode}; the study goes on from here when it is run again"
            )

    def _environment(self) -> dict[str, str]:
        """Of a command: compiled programs are shared by the seeds of a variant."""
        own = {"PYTHONPATH": str(ROOT), "JAX_COMPILATION_CACHE_DIR": str(self.work / "compiled")}
        own["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        if self.given.jobs > 1:
            own["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *ONE_THREAD]).strip()
        return {**os.environ, **own}


if __name__ == "__main__":
    sys.exit(exit_code(main))
