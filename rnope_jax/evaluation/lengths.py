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


def planned(
    asked: tuple[int, ...],
    otherwise: tuple[int, ...],
    plan: Callable[[tuple[int, ...]], Planned],
    report: Callable[[str], None],
) -> tuple[tuple[int, ...], Planned]:
    """Plans an evaluation at the lengths that were asked for, or else at those of others that it can have.

    Args:
      asked: tokens; none of them is left out.
      otherwise: taken where none is asked for.
      plan: makes the plan for lengths.
      report: told which length was left out, and why.

    Returns:
      The lengths, and the plan for them.

    Raises:
      LengthError: if one that was asked for cannot be had, or none of the others.
    """
    lengths = asked or otherwise
    while True:
        try:
            return lengths, plan(lengths)
        except LengthError as error:
            left = tuple(length for length in lengths if length != error.length)
            if asked or not left:
                raise
            report(f"{error.length:,} tokens are left out: {error}")
            lengths = left
