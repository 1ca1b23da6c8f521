"""Data: text files (`sources`), tokenizer, token files (`store`), packed rows, mixtures, batches (`loader`)."""

from rnope_jax.data.corpus import Corpus, check, prepare
from rnope_jax.data.loader import DataError, ReadAhead, held_out_batches, training_batches
from rnope_jax.data.mixture import Mixture
from rnope_jax.data.packing import Batch
from rnope_jax.data.store import Tokens, TokenStore
from rnope_jax.data.tokenizer import Tokenizer

__all__ = [
    "Batch",
    "Corpus",
    "DataError",
    "Mixture",
    "ReadAhead",
    "TokenStore",
    "Tokenizer",
    "Tokens",
    "check",
    "held_out_batches",
    "prepare",
    "training_batches",
]
