"""A trained run as something that continues text."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax

from rnope_jax import model
from rnope_jax.checkpoint import load_params
from rnope_jax.config import ModelConfig
from rnope_jax.data import Tokenizer, tokenizer
from rnope_jax.inference.generate import generate
from rnope_jax.inference.sampling import Sampling
from rnope_jax.model import Params
from rnope_jax.training import Run


@dataclass(frozen=True)
class TextModel:
    """A model with its tokenizer."""

    config: ModelConfig
    params: Params
    tokenizer: Tokenizer
    step: int
    """Training steps that the parameters have seen."""

    def stream(self, prompt: str, max_tokens: int, sampling: Sampling, seed: int = 0) -> Iterator[str]:
        """Continues one text; yields the continuation piece by piece."""

        def tokens() -> Iterator[int]:
            for column in self._tokens([prompt], max_tokens, sampling, seed):
                yield int(column[0])

        yield from self.tokenizer.stream(tokens())

    def complete(self, prompts: Sequence[str], max_tokens: int, sampling: Sampling, seed: int = 0) -> list[str]:
        """Continues several texts at once."""
        columns = list(self._tokens(prompts, max_tokens, sampling, seed))
        rows = zip(*columns, strict=True)
        return [self.tokenizer.decode([int(token) for token in row if token >= 0]) for row in rows]

    def _tokens(self, prompts: Sequence[str], max_tokens: int, sampling: Sampling, seed: int) -> Iterator:
        encoded = [[self.tokenizer.bos_id, *self.tokenizer.encode(prompt)] for prompt in prompts]
        return generate(
            self.config,
            self.params,
            encoded,
            max_tokens,
            sampling=sampling,
            stop_token=self.tokenizer.eos_id,
            seed=seed,
        )


def load(run: Path) -> TextModel:
    """The model of a run's newest checkpoint.

    Raises:
      UserError: if this is no run, or it has no checkpoint that can be read.
    """
    paths = Run(run)
    config = paths.config
    placed = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = {
        name: jax.ShapeDtypeStruct(info.shape, info.dtype, sharding=placed)
        for name, info in model.describe(config.model).items()
    }
    step, params = load_params(paths.checkpoints, abstract)
    shape = config.model_after(step)
    return TextModel(shape, params, tokenizer.load(paths.tokenizer), step)
