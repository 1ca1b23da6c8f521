"""A haystack for tests."""

from rnope_jax.evaluation.analysis.probe import Haystack
from tests.interop.models import small_tokenizer

TEXT = "".join(
    f"The {a} and the {b} were there. A {b} cannot {c}!\ndef main({a}):\n    return {c}\n\n"
    for a, b, c in [("river", "stone", "speak"), ("light", "sound", "stand"), ("cloud", "house", "answer")]
)


def haystack() -> Haystack:
    return Haystack(TEXT, small_tokenizer())
