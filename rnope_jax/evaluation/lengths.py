"""Lengths at which a model is evaluated."""

from collections.abc import Callable
from typing import TypeVar

from rnope_jax.errors import UserError

#: Lengths in multiples of the longest row of training.
_MULTIPLES = (0.5, 1, 2, 4, 8)
#: What is taken for that where nothing is known, and the shortest that is taken unasked.
_CONTEXT, _SHORTEST = 1024, 256

Planned = TypeVar("Planned")


class LengthError(UserError):
    """A length, in tokens, at which something cannot be measured."""

    def __init__(self, message: str, length: int):
        super().__init__(message)
        self.length = length


def lengths_for(context: int) -> tuple[int, ...]:
    """Lengths within and past the longest row of training, of `context` tokens; 0 stands for unknown."""
    found = {int((context or _CONTEXT) * multiple) for multiple in _MULTIPLES}
    return tuple(sorted(length for length in found if length >= _SHORTEST)) or (_SHORTEST,)


def at_those_that_can_be(
    lengths: tuple[int, ...], plan: Callable[[tuple[int, ...]], Planned], report: Callable[[str], None]
) -> tuple[tuple[int, ...], Planned]:
    """Plans an evaluation at lengths that nobody asked for: those that it cannot have are told, and left out.

    Args:
      lengths: tokens, rising.
      plan: makes the plan for lengths.
      report: told which length was left out, and why.

    Returns:
      The lengths that are left, and their plan.

    Raises:
      LengthError: if none is left.
    """
    while True:
        try:
            return lengths, plan(lengths)
        except LengthError as error:
            left = tuple(length for length in lengths if length != error.length)
            if not left:
                raise
            report(f"{error.length:,} tokens are left out: {error}")
            lengths = left
