"""Reports."""

import json

import pytest

from rnope_jax.config import LoggingConfig
from rnope_jax.run import Run
from rnope_jax.training.metrics import Clock, Reporter, progress_line


def lines(run: Run) -> list[dict]:
    return [json.loads(line) for line in run.metrics.read_text().splitlines()]


def reporter(run: Run, start: int) -> Reporter:
    return Reporter(run, LoggingConfig(tensorboard=False), start, 10)


def test_a_resumed_run_forgets_what_it_makes_again(tmp_path):
    run = Run(tmp_path)
    first = reporter(run, 0)
    first.write(0, held_out_loss=5.0, final=False)
    for step in (1, 2, 3):
        first.write(step, loss=1.0)
    first.write(3, held_out_loss=4.0, final=True)
    first.close()
    with run.metrics.open("a") as file:
        file.write('{"step": 2, "lo')
    reporter(run, 2).close()
    assert lines(run) == [
        {"step": 0, "held_out_loss": 5.0, "final": False},
        {"step": 1, "loss": 1.0},
        {"step": 2, "loss": 1.0},
    ]
    reporter(run, 0).close()
    assert lines(run) == []


def test_lines_are_on_disk_as_soon_as_they_are_written(tmp_path):
    made = reporter(Run(tmp_path), 0)
    made.write(1, loss=2.0)
    assert lines(Run(tmp_path)) == [{"step": 1, "loss": 2.0}]
    made.close()


def test_tensorboard_gets_the_numbers(tmp_path):
    made = Reporter(Run(tmp_path), LoggingConfig(), 0, 10)
    made.write(1, loss=2.0, stage="text")
    made.close()
    (events,) = (tmp_path / "tensorboard").iterdir()
    content = events.read_bytes()
    assert b"loss" in content
    assert b"stage" not in content


def test_a_line_tells_how_training_goes():
    values = {
        "stage": "pretrain",
        "loss": 2.5,
        "gradient_norm": 0.5,
        "learning_rate": 1e-3,
        "tokens_per_second": 1234.0,
        "model_tflops": 0.5,
        "memory_gib": 1.0,
        "data_wait": 0.02,
    }
    line = progress_line(7, 100, values)
    for part in ("step   7/100", "pretrain", "loss 2.5000", "lr 1.00e-03", "1,234 tok/s", "data 2%"):
        assert part in line


def test_waiting_is_not_productive(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("rnope_jax.training.metrics.time.perf_counter", lambda: now[0])
    clock = Clock()
    now[0] = 10.0  # compiling
    clock.resume()
    with clock.wait():
        now[0] = 11.0
    now[0] = 14.0
    assert clock.lap() == (4.0, 1.0)
    now[0] = 15.0
    assert clock.goodput == pytest.approx(3 / 15)


def test_waiting_belongs_to_the_lap_in_which_it_happened(monkeypatch):
    """Else the share of an interval that went into waiting could exceed the whole of it."""
    now = [0.0]
    monkeypatch.setattr("rnope_jax.training.metrics.time.perf_counter", lambda: now[0])
    clock = Clock()
    with clock.wait():  # for the first batch, before training goes on
        now[0] = 5.0
    clock.resume()
    now[0] = 6.0
    assert clock.lap() == (1.0, 0.0)
    with clock.wait():
        now[0] = 9.0
    assert clock.lap() == (3.0, 3.0)
    assert clock.lap() == (0.0, 0.0)
