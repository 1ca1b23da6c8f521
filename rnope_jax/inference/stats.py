"""What a continuation took."""

import time
from dataclasses import dataclass, field

import jax.numpy as jnp
import numpy as np

from rnope_jax import flops
from rnope_jax.config import ModelConfig


@dataclass
class Stats:
    """Filled in while texts are continued; complete when the last token has come."""

    prompts: int = 0
    prompt_tokens: int = 0
    """Tokens of all prompts."""
    tokens: int = 0
    """Tokens made, of all texts."""
    compile_seconds: float = 0.0
    """Compiling, which the other times leave out."""
    first_seconds: float = 0.0
    """From the prompts to the first token of each text."""
    rest_seconds: float = 0.0
    """From the first tokens to the last."""
    rest_tokens: int = 0
    """Tokens after the first of each text."""
    context: int = 0
    """Tokens for which the cache has room, in each text."""
    cache_bytes: int = 0
    """Keys and values of all texts."""
    full_cache_bytes: int = 0
    """What they would take if every layer attended to the whole prefix."""
    _began: float = field(default=0.0, repr=False)

    def begin(self, config: ModelConfig, lengths: np.ndarray, context: int, compile_seconds: float) -> None:
        """Starts the clock: prompts of these lengths are about to be read."""
        self.prompts, self.prompt_tokens = len(lengths), int(lengths.sum())
        self.context, self.compile_seconds = context, compile_seconds
        size = jnp.dtype(config.compute_dtype).itemsize
        self.cache_bytes = self.prompts * flops.cache_bytes(config, context, size)
        self.full_cache_bytes = self.prompts * flops.full_cache_bytes(config, context, size)
        self._began = time.perf_counter()

    def count(self, column: np.ndarray) -> None:
        """Counts the next token of each text [B], -1 where a text has ended."""
        passed, made = time.perf_counter() - self._began, int((column >= 0).sum())
        if self.tokens == 0:
            self.first_seconds = passed
        else:
            self.rest_seconds, self.rest_tokens = passed - self.first_seconds, self.rest_tokens + made
        self.tokens += made

    @property
    def tokens_per_second(self) -> float:
        """Tokens after the first ones, of all texts together; 0 if there are none."""
        return self.rest_tokens / self.rest_seconds if self.rest_tokens else 0.0

    def __str__(self) -> str:
        share = self.cache_bytes / self.full_cache_bytes if self.full_cache_bytes else 0.0
        prompts = f"{self.prompts} prompts" if self.prompts != 1 else "1 prompt"
        lines = [
            f"compiled in    {self.compile_seconds:.2f} s, not counted below",
            f"first token    {1e3 * self.first_seconds:.1f} ms after {prompts} of {self.prompt_tokens:,} tokens",
            f"then           {self.tokens_per_second:.1f} tokens/s ({self.rest_tokens:,} tokens)",
            f"cache          {self.cache_bytes / 2**20:,.2f} MiB for {self.context:,} tokens each; full attention in "
            f"every layer would need {self.full_cache_bytes / 2**20:,.2f} MiB ({share:.3f} of it used)",
        ]
        return "\n".join(lines)
