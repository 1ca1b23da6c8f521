"""`rnope generate`: continue texts."""

import sys
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import FlagCreatePairsOff, Positional, arg


def generate(
    run: Annotated[Positional[Path], arg(metavar="RUN")],
    prompts: Annotated[Positional[tuple[str, ...]], arg(metavar="PROMPT [PROMPT ...]")],
    /,
    *,
    max_tokens: int = 128,
    temperature: float = 0.8,
    top_k: int | None = None,
    top_p: float | None = 0.95,
    seed: int = 0,
    dtype: Literal["float32", "bfloat16"] | None = None,
    stats: Annotated[bool, FlagCreatePairsOff] = False,
    trust_checkpoint: Annotated[bool, FlagCreatePairsOff] = False,
) -> None:
    """Continue texts with the newest whole checkpoint of a run; a single text is printed as its tokens come.

    Args:
      run: run directory, such as runs/quickstart.
      prompts: texts to continue; several are continued together.
      max_tokens: most tokens to make for each.
      temperature: 0 takes the likeliest token every time, 1 draws from the model's distribution.
      top_k: draw from the likeliest k tokens only.
      top_p: draw from the likeliest tokens whose probabilities reach p together.
      seed: of the draws.
      dtype: type of weights, activations and cache; bfloat16 takes half the memory of float32. None: the model's.
      stats: report times and cache sizes, on standard error.
      trust_checkpoint: do not verify the files of the checkpoint before they are read.
    """
    from rnope_jax.errors import UserError
    from rnope_jax.inference import Sampling, Stats, load

    if not prompts:
        raise UserError('there is no prompt: give at least one text to continue, "" for none')
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p)
    model = load(run, dtype, trust_checkpoint=trust_checkpoint)
    measured = Stats() if stats else None
    if len(prompts) == 1:
        sys.stdout.write(prompts[0])
        for piece in model.stream(prompts[0], max_tokens, sampling, seed, measured):
            sys.stdout.write(piece)
            sys.stdout.flush()
        sys.stdout.write("\n")
    else:
        for prompt, text in zip(prompts, model.complete(prompts, max_tokens, sampling, seed, measured), strict=True):
            sys.stdout.write(f"--- {prompt!r} goes on:\n{prompt}{text}\n\n")
    if measured is not None:
        sys.stdout.flush()
        print(measured, file=sys.stderr)
