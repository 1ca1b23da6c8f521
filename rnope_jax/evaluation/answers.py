"""Continuations of many prompts, in batches."""

from collections.abc import Collection, Iterator, Sequence

import numpy as np

from rnope_jax.evaluation.batches import BATCH_TOKENS, grouped
from rnope_jax.inference import Sampling, TextModel, generate
from rnope_jax.inference.generate import DECODE_BLOCK

#: The likeliest token every time.
_GREEDY = Sampling()


def continuations(
    model: TextModel,
    prompts: Sequence[Sequence[int]],
    tokens: Sequence[int],
    *,
    batch_tokens: int = BATCH_TOKENS,
    done: Collection[int] = (),
    until: Sequence[str] = (),
    sampling: Sampling = _GREEDY,
) -> Iterator[dict[int, str]]:
    """Continues prompts up to the end token.

    Which prompts are computed together does not depend on what is done already, so that an
    evaluation that goes on gives the very answers of one that was never stopped.

    Args:
      model: the model.
      prompts: tokens of each prompt.
      tokens: most tokens to make for each.
      batch_tokens: most tokens that are computed together, unless one prompt has more.
      done: numbers of prompts whose answers are known.
      until: a text that holds one of these need not be continued; it is not cut.
      sampling: how tokens are drawn.

    Yields:
      The continuations of a batch by the numbers of their prompts, as soon as they are there.
    """
    for most in sorted(set(tokens), reverse=True):
        # Rows of a batch are continued as long as the longest of them.
        rows = [row for row, own in enumerate(tokens) if own == most]
        for group in grouped([len(prompts[row]) + most for row in rows], batch_tokens):
            numbers = [rows[place] for place in group.rows]
            if not all(number in done for number in numbers):
                texts = _continued(model, group.fill([prompts[row] for row in rows]), most, until, sampling)
                yield dict(zip(numbers, texts, strict=False))  # without the copies that fill the batch


def _continued(
    model: TextModel, batch: list[Sequence[int]], most: int, until: Sequence[str], sampling: Sampling
) -> list[str]:
    columns: list[np.ndarray] = []

    def texts() -> list[str]:
        rows = np.stack(columns, axis=1) if columns else np.zeros((len(batch), 0), np.int32)
        return [model.tokenizer.decode(row[row >= 0].tolist()) for row in rows]

    made = generate(model.config, model.params, batch, most, sampling=sampling, stop_token=model.tokenizer.eos_id)
    for column in made:
        columns.append(column)
        ended = column < 0
        if until and len(columns) % DECODE_BLOCK == 0:
            ended = ended | [any(stop in text for stop in until) for text in texts()]
            if ended.all():
                break
    return texts()
