"""What a run reports: metrics.jsonl, TensorBoard and a line on the terminal."""

import contextlib
import json
import resource
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax
from rich.console import Console
from rich.live import Live
from rich.text import Text

from rnope_jax.config import LoggingConfig
from rnope_jax.errors import UserError
from rnope_jax.files import write_text
from rnope_jax.run import Run
from rnope_jax.training.tensorboard import TensorBoard


class Reporter:
    """Writes metrics; on a terminal the newest line stays at the bottom, elsewhere each is printed.

    Of several processes, only the first one writes.
    """

    def __init__(self, run: Run, config: LoggingConfig, start_step: int, total_steps: int):
        """Forgets what an earlier process reported of steps after `start_step`: they are made again."""
        self.total_steps = total_steps
        self.file = self.board = self.wandb = None
        self.console = Console(highlight=False, soft_wrap=True)
        self.live: Live | None = None
        self.active = jax.process_index() == 0
        if not self.active:
            return
        if run.metrics.exists():
            lines = [line for line in run.metrics.read_text().splitlines() if _keeps(line, start_step)]
            write_text(run.metrics, "".join(line + "\n" for line in lines))
        self.file = run.metrics.open("a", buffering=1)
        if config.wandb is not None:
            self.wandb = _wandb().init(project=config.wandb, name=run.path.name, dir=run.path, resume="allow")
        if config.tensorboard:
            self.board = TensorBoard(run.tensorboard, start_step + 1)

    def write(self, step: int, **values: Any) -> None:
        """Adds a line to metrics.jsonl, and its numbers to TensorBoard."""
        if self.file is not None:
            self.file.write(json.dumps({"step": step, **values}) + "\n")
        if self.board is not None:
            numbers = {name: value for name, value in values.items() if type(value) in (int, float)}
            self.board.write(step, numbers)
        if self.wandb is not None:
            self.wandb.log(values, step=step)

    def progress(self, step: int, values: dict[str, Any]) -> None:
        """Shows how training goes."""
        text = progress_line(step, self.total_steps, values)
        if self.live is not None:
            self.live.update(Text(text))
        else:
            self.say(text)

    def say(self, text: str) -> None:
        """Prints a lasting line."""
        if self.active:
            self.console.print(text, markup=False)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Keeps the progress line at the bottom of a terminal while the block runs."""
        if not self.console.is_terminal or not self.active:
            yield
            return
        with Live(Text(""), console=self.console, refresh_per_second=4) as self.live:
            yield
        self.live = None

    def close(self) -> None:
        """Flushes and closes the files."""
        if self.file is not None:
            self.file.close()
        if self.board is not None:
            self.board.close()
        if self.wandb is not None:
            self.wandb.finish()


class Clock:
    """How much of a run's time goes into training steps."""

    def __init__(self) -> None:
        self.start = self.mark = time.perf_counter()
        self.productive = 0.0
        self.waiting = 0.0

    def resume(self) -> None:
        """Training goes on now; what came before (compiling, evaluating, saving) is no part of a step."""
        self.mark, self.waiting = time.perf_counter(), 0.0

    @contextlib.contextmanager
    def wait(self) -> Iterator[None]:
        """Counts the block as waiting for data, in the lap in which it runs."""
        began = time.perf_counter()
        yield
        self.waiting += time.perf_counter() - began

    def lap(self) -> tuple[float, float]:
        """Seconds since the last lap, and those of them spent waiting for data; the others were productive."""
        now = time.perf_counter()
        seconds, waiting = now - self.mark, self.waiting
        self.mark, self.waiting = now, 0.0
        self.productive += seconds - waiting
        return seconds, waiting

    @property
    def goodput(self) -> float:
        """Share of the time since the start that went into training steps."""
        return self.productive / max(time.perf_counter() - self.start, 1e-9)


def check(config: LoggingConfig) -> None:
    """Checks that what the reports need is installed.

    Raises:
      UserError: if it is not.
    """
    if config.wandb is not None:
        _wandb()


def _wandb() -> Any:
    try:
        import wandb
    except ImportError as error:
        raise UserError("logging.wandb needs the package wandb: pip install 'rnope-jax[wandb]'") from error
    return wandb


def memory_gib() -> float:
    """Peak memory of the fullest local accelerator, or of this process where there is none."""
    stats = [device.memory_stats() for device in jax.local_devices()]
    peaks = [entry["peak_bytes_in_use"] for entry in stats if entry and "peak_bytes_in_use" in entry]
    if peaks:
        return max(peaks) / 2**30
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes on macOS, in KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def progress_line(step: int, total: int, values: dict[str, Any]) -> str:
    """One line on a training step."""
    return (
        f"step {step:>{len(str(total))}}/{total}  {values['stage']}  loss {values['loss']:.4f}  "
        f"grad {values['gradient_norm']:.2f}  lr {values['learning_rate']:.2e}  "
        f"{values['tokens_per_second']:,.0f} tok/s  {values['model_tflops']:.3f} TFLOP/s  "
        f"{values['memory_gib']:.2f} GiB  data {values['data_wait']:.0%}"
    )


def _keeps(line: str, start_step: int) -> bool:
    """Whether a line of metrics.jsonl stays true when training goes on from `start_step`.

    The closing evaluation is made again, and so is everything if no checkpoint was there. A line
    that a crash has cut short is dropped.
    """
    try:
        values = json.loads(line)
        return 0 < start_step >= values["step"] and not values.get("final", False)
    except (json.JSONDecodeError, KeyError, TypeError):
        return False
