"""`rnope generate`: continue a text."""

import sys
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional


def generate(
    run: Positional[Path],
    prompt: Positional[str],
    /,
    *,
    max_tokens: int = 128,
    temperature: float = 0.8,
    top_k: int | None = None,
    top_p: float | None = 0.95,
    seed: int = 0,
    trust_checkpoint: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
) -> None:
    """Continue a text with the newest whole checkpoint of a run; prints as the tokens come.

    Args:
      run: run directory, such as runs/quickstart.
      prompt: text to continue.
      max_tokens: most tokens to make.
      temperature: 0 takes the likeliest token every time, 1 draws from the model's distribution.
      top_k: draw from the likeliest k tokens only.
      top_p: draw from the likeliest tokens whose probabilities reach p together.
      seed: of the draws.
      trust_checkpoint: do not verify the files of the checkpoint before they are read.
    """
    from rnope_jax.inference import Sampling, load

    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p)
    model = load(run, trust_checkpoint=trust_checkpoint)
    sys.stdout.write(prompt)
    for piece in model.stream(prompt, max_tokens, sampling, seed):
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")
