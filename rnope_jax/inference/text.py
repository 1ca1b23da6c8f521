"""A trained model as something that continues text."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rnope_jax.config import ModelConfig
from rnope_jax.data import Tokenizer, tokenizer
from rnope_jax.errors import UserError
from rnope_jax.inference.generate import generate
from rnope_jax.inference.layout import ComputeDtype, read
from rnope_jax.inference.sampling import Sampling
from rnope_jax.inference.stats import Stats
from rnope_jax.interop import open_source
from rnope_jax.model import Params
from rnope_jax.weights import DTYPES


@dataclass(frozen=True)
class TextModel:
    """A model with its tokenizer."""

    config: ModelConfig
    """With its layers as decoding runs them (`layout`)."""
    params: Params
    tokenizer: Tokenizer
    step: int
    """Training steps that the parameters have seen."""
    context: int
    """Longest row that the model was trained on."""

    def stream(
        self, prompt: str, max_tokens: int, sampling: Sampling, seed: int = 0, stats: Stats | None = None
    ) -> Iterator[str]:
        """Continues one text; yields the continuation piece by piece."""

        def tokens() -> Iterator[int]:
            for column in self._tokens([prompt], max_tokens, sampling, seed, stats):
                yield int(column[0])

        yield from self.tokenizer.stream(tokens())

    def complete(
        self,
        prompts: Sequence[str],
        max_tokens: int,
        sampling: Sampling,
        seed: int = 0,
        stats: Stats | None = None,
    ) -> list[str]:
        """Continues several texts at once."""
        columns = list(self._tokens(prompts, max_tokens, sampling, seed, stats))
        rows = zip(*columns, strict=True)
        return [self.tokenizer.decode([int(token) for token in row if token >= 0]) for row in rows]

    def _tokens(
        self, prompts: Sequence[str], max_tokens: int, sampling: Sampling, seed: int, stats: Stats | None
    ) -> Iterator:
        encoded = [[self.tokenizer.bos_id, *self.tokenizer.encode(prompt)] for prompt in prompts]
        return generate(
            self.config,
            self.params,
            encoded,
            max_tokens,
            sampling=sampling,
            stop_token=self.tokenizer.eos_id,
            seed=seed,
            stats=stats,
        )


def load(run: Path, dtype: ComputeDtype | None = None, *, trust_checkpoint: bool = False) -> TextModel:
    """The model of a run's newest whole checkpoint, or that of a directory of Hugging Face files.

    Args:
      run: the directory.
      dtype: type of weights, activations and cache, float32 or bfloat16; None takes that of the run, or for Hugging
        Face files the one that holds their weights.
      trust_checkpoint: do not compare the files of the checkpoint with its integrity file first.

    Raises:
      UserError: if this is neither, or there is no checkpoint that can be read, or no tokenizer.
    """
    source = open_source(run, verify=not trust_checkpoint)
    if source.tokenizer is None:
        raise UserError(
            f"{run}: there is no tokenizer with this model, so it cannot read text; put its tokenizer.json there"
        )
    loaded = tokenizer.load(source.tokenizer)
    if loaded.vocab_size > source.model.vocab_size:
        raise UserError(
            f"{source.tokenizer}: has {loaded.vocab_size} tokens, the model an embedding of {source.model.vocab_size}; "
            "put the tokenizer there that it was trained with"
        )
    if dtype is None and source.config is None:
        # Files do not say in what type to compute; one that holds their values does.
        dtype = "bfloat16" if source.weights.dtype("embedding") == DTYPES["bfloat16"] else "float32"
    config, params = read(source.weights, source.model, dtype)
    return TextModel(config, params, loaded, source.step, source.context)
