"""From Hugging Face files to a run from which training continues."""

import dataclasses
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from rnope_jax import flops
from rnope_jax.config import Config, DataConfig, InitConfig, ScheduleConfig, StageConfig
from rnope_jax.errors import UserError
from rnope_jax.files import make_directory
from rnope_jax.interop import safetensors
from rnope_jax.interop.directory import CONFIG, CONFIG_LIMIT, FileWeights
from rnope_jax.interop.exporting import SHARD_BYTES, check_room
from rnope_jax.interop.names import HUGGING_FACE
from rnope_jax.interop.published import KEYS, WindowConvention
from rnope_jax.interop.safetensors import Planned
from rnope_jax.interop.source import Source, open_source, planned
from rnope_jax.interop.tokenizer_files import copy_tokenizer
from rnope_jax.interop.untrusted import read_json
from rnope_jax.run import Run


def import_directory(
    directory: Path,
    run: Path,
    *,
    convention: WindowConvention = "transformers",
    report: Callable[[str], None] = print,
) -> Config:
    """Makes a run of published weights; `python train.py RUN` trains it on.

    The directory may come from anywhere. Its files are checked before anything is written, every
    value is seen to be finite, and what is kept is written anew: tensors bit for bit, the keys of
    config.json that describe the model, the tokenizer's data; nothing else.

    Args:
      directory: Hugging Face files of a Cohere or Cohere2 (dense) model.
      run: run directory to make.
      convention: how `sliding_window` is meant (see `InitConfig.window_convention`).
      report: told what is done.

    Raises:
      UserError: naming the file and the fact, if anything is not as it must be; `run` is not made then.
    """
    # A run would be opened with less suspicion.
    if (directory / CONFIG).exists() and "model_type" not in read_json(directory, CONFIG, CONFIG_LIMIT):
        raise UserError(
            f"{directory / CONFIG}: no model_type, so no Hugging Face model; if it is a run already, "
            f"train from it with --init.source {directory}"
        )
    source = open_source(directory, convention=convention)
    assert isinstance(source.weights, FileWeights)
    stored = source.weights.stored
    tensors = [_finite(tensor, stored[tensor.name].file) for tensor in planned(source, HUGGING_FACE, None)]
    size = sum(tensor.bytes for tensor in tensors)
    check_room(run, size)
    count = flops.parameters(source.model).total
    report(f"{directory}: {count:,} parameters, {size / 1e9:.3g} GB")
    for kind in dict.fromkeys(source.model.pattern):
        report(f"  {source.model.layer_kinds.count(kind)} layers {kind}")
    config = _config(source, run, convention)
    with make_directory(run) as aside:
        paths = Run(aside)
        if source.tokenizer:
            paths.tokenizer.mkdir()
            copy_tokenizer(source.tokenizer, paths.tokenizer, add_bos=False)
        else:
            report("  no tokenizer.json: give data.tokenizer when you train")
        paths.imported.mkdir()
        safetensors.write(paths.imported, tensors, SHARD_BYTES)
        kept = {key: value for key, value in source.published.items() if key in KEYS}
        (paths.imported / CONFIG).write_text(json.dumps(kept, indent=2) + "\n")
        paths.record(config)
    return config


def _config(source: Source, run: Path, convention: WindowConvention) -> Config:
    """A configuration that trains on at once; its stage is a beginning, to be overridden."""
    stage = StageConfig(
        name="continue",
        steps=1000,
        sequence_length=min(source.context, 8192),
        batch_size=8,
        schedule=ScheduleConfig(peak=1e-5, warmup_steps=10),
    )
    return Config(
        name=run.absolute().name,
        # As quickly as the machine allows; what the files say of types is kept with the weights.
        model=dataclasses.replace(source.model, compute_dtype="bfloat16"),
        stages=(stage,),
        data=DataConfig(tokenizer=str(run / "tokenizer") if source.tokenizer else None),
        init=InitConfig(source=str(run), window_convention=convention),
        run_dir=str(run),
    )


def _finite(tensor: Planned, file: Path) -> Planned:
    """The tensor, with every value looked at on its way."""

    def checked(values: Callable[[], Iterator[np.ndarray]]) -> Iterator[np.ndarray]:
        for piece in values():
            if not np.isfinite(piece.astype(np.float32, copy=False)).all():
                raise UserError(f"{file}: tensor {tensor.name} has values that are not finite")
            yield piece

    return dataclasses.replace(tensor, values=partial(checked, tensor.values))
