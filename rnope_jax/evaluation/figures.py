"""Figures of a run."""

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from rnope_jax.run import Run


def loss_figure(run: Run, xz: float | None = None) -> Path:
    """Draws the loss of training and of held-out text over the steps, from metrics.jsonl.

    Args:
      run: the run.
      xz: bits per byte of `xz -9` on the held-out text, drawn for comparison.

    Returns:
      The PNG file.
    """
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    train = [(line["step"], line["loss"]) for line in lines if "loss" in line]
    held = [
        (line["step"], line["held_out_loss"], line["held_out_bits_per_byte"])
        for line in lines
        if "held_out_loss" in line
    ]
    figure, (nats, bits) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    if train:
        nats.plot(*zip(*train, strict=True), color="#9bb4d0", linewidth=1, label="training")
    if held:
        steps, loss, bytes_ = zip(*held, strict=True)
        nats.plot(steps, loss, "o-", color="#1f4e8c", markersize=3, label="held-out")
        bits.plot(steps, bytes_, "o-", color="#1f4e8c", markersize=3, label="held-out")
    if xz is not None:
        bits.axhline(xz, color="#b3541e", linestyle="--", linewidth=1, label=f"xz -9: {xz:.3f}")
    nats.set(xlabel="step", ylabel="nats per token", title="Loss")
    bits.set(xlabel="step", ylabel="bits per byte", title="Held-out text")
    for axes in (nats, bits):
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False)
    run.figures.mkdir(exist_ok=True)
    target = run.figures / "loss.png"
    figure.savefig(target, dpi=120)
    plt.close(figure)
    return target
