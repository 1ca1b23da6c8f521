"""`rnope export` and `rnope import`: models from and for other programs."""

import math
import shlex
from pathlib import Path
from typing import Annotated, Literal

import tyro


def export(
    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")],
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")],
    /,
    *,
    target: Annotated[Literal["transformers", "vllm", "llama.cpp"], tyro.conf.arg(name="for")] = "transformers",
    gguf: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    dtype: Annotated[str | None, tyro.conf.arg(metavar="TYPE")] = None,
    step: Annotated[int | None, tyro.conf.arg(metavar="N")] = None,
    shard_size: Annotated[float, tyro.conf.arg(metavar="GB")] = 5.0,
    verify: bool = True,
    trust_checkpoint: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
) -> None:
    """Write a model as files that PyTorch programs read, or as GGUF for llama.cpp.

    Args:
      run: run directory, such as runs/quickstart.
      out: directory to make; with --gguf a file, or a directory for model.gguf.
      target: the program that will read the files.
      gguf: write a GGUF file, with any order of layers and a tokenizer of your own.
      dtype: float32, bfloat16 or float16; by default what the model computes in, or what imported weights have.
      step: which checkpoint, 0 for weights as they were imported; by default the newest that is whole.
      shard_size: largest file of weights, in GB.
      verify: load the result with PyTorch in another process and compare logits.
      trust_checkpoint: do not verify the files of the checkpoint before they are read.
    """
    from rnope_jax import interop
    from rnope_jax.errors import UserError

    if not math.isfinite(shard_size):
        raise UserError(f"shard_size = {shard_size}: must be a number of gigabytes")
    if gguf and target == "vllm":
        raise UserError("--gguf writes a file for llama.cpp; leave out --for vllm")
    for own in (run / name for name in ("checkpoints", "imported", "tokenizer", "data")):
        if out.resolve().is_relative_to(own.resolve()):
            raise UserError(f"{out} lies among the files of the run; choose a place outside of {own}")
    if gguf:
        made = interop.export_gguf(run, out, dtype=dtype, step=step, check=verify, trust_checkpoint=trust_checkpoint)
    else:
        made = interop.export(
            run,
            out,
            target=target,
            dtype=dtype,
            step=step,
            shard_bytes=int(shard_size * 1e9),
            check=verify,
            trust_checkpoint=trust_checkpoint,
        )
    print(f"done: {made.path}")


def import_(
    directory: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")],
    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")],
    /,
    *,
    window_convention: Literal["transformers", "vllm"] = "transformers",
) -> None:
    """Make a run of published weights (Cohere2 or Cohere), to sample from, train on and export again.

    Args:
      directory: Hugging Face files; nothing in them is executed.
      run: run directory to make.
      window_convention: how many keys sliding_window stands for: that many (transformers, llama.cpp), or
        one more (vllm).
    """
    from rnope_jax import interop

    config = interop.import_directory(directory, run, convention=window_convention)
    print(f"done: {run}")
    print("next:")
    tokenizer = "" if config.data.tokenizer else " --data.tokenizer TOKENIZER"
    steps = config.stages[0].steps
    print(f"  python train.py {shlex.quote(str(run))} --data.corpus TEXTS{tokenizer} --stages.0.steps {steps}")
