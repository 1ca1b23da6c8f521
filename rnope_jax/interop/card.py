"""The model card: what an export is, how it was made, and how it is read."""

import json
from pathlib import Path
from typing import Any

from rnope_jax import __version__, flops
from rnope_jax.interop.kinds import UNBOUNDED, attention
from rnope_jax.interop.source import Source
from rnope_jax.interop.targets import TARGETS, TargetName
from rnope_jax.run import Run


def model_card(source: Source, target: TargetName, config: dict[str, Any]) -> str:
    """The README.md of an export, in Markdown with the header that model hubs read."""
    header = "---\nlibrary_name: transformers\npipeline_tag: text-generation\ntags:\n- rnope-swa\n---\n"
    name = source.config.name if source.config else source.path.absolute().name
    parts = [header, f"# {name}\n", _model(source), _reading(source, target, config)]
    if source.config and source.step:
        parts += [_training(source), _evaluation(Run(source.path), source.step), _data(Run(source.path))]
    if source.published:
        parts.append("Its weights began as an imported checkpoint; the license of that checkpoint applies.\n")
    elif source.config and source.config.init.source:
        parts.append(f"Its weights began as those of {source.config.init.source}; the license of these applies.\n")
    if source.config:
        parts.append(f"## Configuration\n\n```json\n{source.config.to_json()}```\n")
    return "\n".join(part for part in parts if part)


def _model(source: Source) -> str:
    model, found = source.model, attention(source.model)
    kinds = "\n".join(f"- {kind}" for kind in model.pattern)
    window = f"A window of {found.window} is that many keys, the query itself included.\n" if found.window else ""
    return (
        f"A decoder of {flops.parameters(model).total:,} parameters in {model.num_layers} layers with Cohere's "
        f"parallel blocks, trained on rows of up to {source.context:,} tokens. Its layers repeat\n\n{kinds}\n\n{window}"
    )


def _reading(source: Source, target: TargetName, config: dict[str, Any]) -> str:
    lines = [f"## How to read it\n\nWritten by rnope_jax {__version__} for {target}, weights in {config['dtype']}.\n"]
    window = attention(source.model).window
    if window is not None:
        note, written = TARGETS[target].window_note, config.get("sliding_window")
        lines.append(note.format(written=written, window=window, less=window - 1))
    if config.get("sliding_window", 0) >= UNBOUNDED - 1:
        lines.append(f"`sliding_window` of {config['sliding_window']} means none: RoPE layers see everything.\n")
    if "sliding_window_pattern" in config and config["sliding_window_pattern"] is None:
        lines.append("The order of the layers is in `layer_types`, which transformers reads from 4.53 on.\n")
    lines.append(TARGETS[target].reading)
    return "\n".join(line for line in lines if line)


def _training(source: Source) -> str:
    config = source.config
    assert config is not None
    spent = tokens = 0
    for index, stage in enumerate(config.stages):
        steps = min(max(source.step - config.first_step(index), 0), stage.steps)
        rows = steps * stage.batch_size
        tokens += rows * stage.sequence_length
        spent += rows * flops.training_flops(config.stage_model(index), [stage.sequence_length])
    return (
        f"## Training\n\n{source.step:,} of {config.total_steps:,} steps, {tokens:,} tokens, at most {spent:.3e} model "
        "FLOPs (exact for rows of one document; packed documents attend to less).\n"
    )


def _evaluation(run: Run, step: int) -> str:
    """The last held-out loss that was measured up to a step."""
    found: dict[str, Any] = {}
    lines = run.metrics.read_text(encoding="utf-8").splitlines() if run.metrics.exists() else []
    for line in lines:
        try:
            values = json.loads(line)
        except json.JSONDecodeError:  # a crash has cut it short
            continue
        if "held_out_loss" in values and values["step"] <= step:
            found = values
    if not found:
        return ""
    which = "all" if found.get("final") else "a part"
    return (
        f"## Evaluation\n\nHeld-out loss after step {found['step']:,}, on {which} of the held-out text: "
        f"{found['held_out_loss']:.4f} nats per token, {found['held_out_bits_per_byte']:.4f} bits per byte.\n"
    )


def _data(run: Run) -> str:
    """Fingerprints of the tokens that the run was trained on."""
    rows = []
    for file in sorted(Path(run.path / "data").glob("*/[!.]*/index.json")):
        index = json.loads(file.read_text())
        part = f"{file.parent.parent.name}/{file.parent.name}"
        rows.append(f"| {part} | {index['documents']:,} | {index['tokens']:,} | `{index['sha256']}` |")
    if not rows:
        return ""
    return (
        "## Data\n\n| store | documents | tokens | sha256 of the tokens |\n| --- | --- | --- | --- |\n"
        + "\n".join(rows)
        + "\n"
    )
