"""`rnope export` and `rnope import`: models from and for other programs."""

from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional


def export(
    run: Positional[Path],
    out: Positional[Path],
    /,
    *,
    target: Annotated[Literal["transformers", "vllm", "llama.cpp"], tyro.conf.arg(name="for")] = "transformers",
    gguf: bool = False,
    dtype: str | None = None,
    step: int | None = None,
    shard_size: float = 5.0,
    verify: bool = True,
) -> None:
    """Write a model as files that PyTorch programs read, or as GGUF for llama.cpp.

    Args:
      run: run directory, such as runs/quickstart.
      out: directory to make; with --gguf a file, or a directory for model.gguf.
      target: the program that will read the files.
      gguf: write a GGUF file, with any order of layers and a tokenizer of your own.
      dtype: float32, bfloat16 or float16; by default the type in which the model computes, and for
        imported weights the type that they have.
      step: which checkpoint; by default the newest.
      shard_size: largest file of weights, in GB.
      verify: load the result with PyTorch in another process and compare logits.
    """
    from rnope_jax import interop

    if gguf:
        made = interop.export_gguf(run, out, dtype=dtype, step=step, check=verify)
    else:
        made = interop.export(
            run, out, target=target, dtype=dtype, step=step, shard_bytes=int(shard_size * 1e9), check=verify
        )
    print(f"done: {made.path}")


def import_(
    directory: Positional[Path],
    run: Positional[Path],
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
    print(f"  python train.py {run} --data.corpus TEXTS --stages.0.steps {config.stages[0].steps}")
