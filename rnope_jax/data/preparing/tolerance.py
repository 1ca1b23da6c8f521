"""How many records may be bad."""

from collections.abc import Sequence
from dataclasses import dataclass

from rnope_jax.errors import UserError

#: Bad records that a message shows.
EXAMPLES = 3


@dataclass(frozen=True)
class Tolerance:
    """A number of records, or a share of all."""

    number: int | None = 0
    """None where only the share counts."""
    share: float = 0.0

    @classmethod
    def parse(cls, text: str) -> "Tolerance":
        """Reads "10" or "0.5%".

        Raises:
          UserError: if it is neither.
        """
        try:
            made = cls(None, float(text[:-1]) / 100) if text.endswith("%") else cls(int(text))
        except ValueError as error:
            raise UserError(f"max_bad = {text!r}: must be a number such as 10, or a share such as 0.5%") from error
        if (made.number or 0) < 0 or not 0 <= made.share <= 1:
            raise UserError(f"max_bad = {text!r}: must not be negative, nor more than 100%")
        return made

    def allowed(self, records: int) -> int:
        """Of so many records."""
        return int(self.share * records) if self.number is None else self.number


NONE = Tolerance()


class TooManyBad(UserError):
    """More records are bad than may be."""

    def __init__(self, allowed: int, examples: Sequence[str]):
        super().__init__(allowed, examples)
        self.allowed, self.examples = allowed, examples

    def __str__(self) -> str:
        shown = "".join(f"  {example}\n" for example in self.examples[:EXAMPLES])
        return (
            f"more than {self.allowed:,} bad records, such as\n{shown}"
            "mend them, or allow more with --max-bad (a number, or a share such as 0.1%); what is done is kept"
        )
