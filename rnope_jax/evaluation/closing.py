"""The first and the last words of a run."""

import os
import shutil
import sys
from collections import Counter
from pathlib import Path

import jax
from jax.sharding import Mesh

from rnope_jax import attention, flops
from rnope_jax.config import Config, MeshConfig
from rnope_jax.data import Corpus
from rnope_jax.files import write_text
from rnope_jax.inference import Sampling, load
from rnope_jax.run import Run
from rnope_jax.sharding import make_mesh
from rnope_jax.training import processes
from rnope_jax.training.evaluation import xz_bits_per_byte
from rnope_jax.training.loop import Trainer
from rnope_jax.training.state import TrainState


def opening(config: Config, mesh: Mesh, corpus: Corpus) -> None:
    """Says what will be trained, where, by which attention backend, and on what."""
    if not processes.is_first():
        return
    device = mesh.devices.flat[0]
    axes = " x ".join(f"{name} {size}" for name, size in mesh.shape.items())
    count = flops.parameters(config.model).total
    print(f"{config.name}: {count:,} parameters on {mesh.size} {device.device_kind} ({axes})")
    for kind, count in Counter(config.model.layer_kinds).items():
        print(f"  {count} layers {kind}: {attention.choose(config.model.attention, kind.window)} attention")
    for stage in config.stages:
        print(f"  stage {stage.name}: {stage.steps:,} steps of {stage.batch_size} x {stage.sequence_length:,} tokens")
    for mixture in corpus.train:
        for line in mixture.report():
            print(f"  {line}")


def close_run(config: Config, run: Run, corpus: Corpus, trainer: Trainer, state: TrainState) -> None:
    """Evaluates, draws and samples, and tells what to run next; a stopped run only learns how to go on."""
    step = int(state.step)
    loss = trainer.evaluate(state) if step == config.total_steps else None
    first, prompts = processes.is_first(), config.evaluation.prompts
    samples = None
    if loss is not None:  # the others attend while the first one samples
        samples = trainer.stop.unless(lambda: _samples(config, run) if first and prompts else "")
    if not first:
        return
    if loss is None or samples is None:
        print(f"\nstopped after step {step} of {config.total_steps}; the same command goes on from there")
        return
    # Here, because matplotlib takes a while to load, and only a run that has ended draws.
    from rnope_jax.evaluation.figures import loss_figure

    xz = xz_bits_per_byte(corpus.held_out)
    figure = loss_figure(run, xz)
    beside = "" if xz is None else f" (xz -9 on the same bytes: {xz:.3f})"
    if prompts:
        write_text(run.samples, samples)
        print(f"\n{samples}")
    print(f"done: {run.path}")
    print(f"  held-out loss  {loss.nats_per_token:.4f} nats/token, {loss.bits_per_byte:.3f} bits/byte{beside}")
    print(f"  checkpoints    {run.checkpoints}")
    print(f"  figure         {figure}")
    print(f"  metrics        {run.metrics}")
    print("next:")
    print(f"  {_rnope()} generate {run.path} {(prompts[0] if prompts else 'Once upon a time')!r}")
    print(f"  {_rnope()} report {run.path}")


def _rnope() -> str:
    """How to call the `rnope` command from where the user stands, environment activated or not."""
    if shutil.which("rnope"):
        return "rnope"
    return os.path.relpath(Path(sys.executable).with_name("rnope"))


def _samples(config: Config, run: Run) -> str:
    """Continuations of the configured prompts."""
    # By the last checkpoint, on a single device: no other process needs to take part.
    with jax.set_mesh(make_mesh(MeshConfig(fsdp=1), jax.local_devices()[:1])):
        model = load(run.path)
        settings = Sampling(temperature=0.8, top_p=0.95)
        texts = model.complete(config.evaluation.prompts, config.evaluation.sample_tokens, settings, config.seed)
    pairs = zip(config.evaluation.prompts, texts, strict=True)
    return "\n".join(f"--- {prompt!r} goes on:\n{prompt}{text}\n" for prompt, text in pairs)
