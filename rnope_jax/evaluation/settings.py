"""What is evaluated, and how. Needs nothing that takes long to import: the command line is made of it."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rnope_jax.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Evaluations, and what they are made of."""

    loss_by_position: bool = False
    """Loss by position and by length, on text that the model has not seen."""
    needle: bool = False
    """Needles in a haystack, by length and depth."""
    ruler: tuple[str, ...] | None = None
    """Tasks of RULER, or groups: retrieval, tracing, aggregation, "question answering"; all if none is named."""
    lengths: tuple[int, ...] = ()
    """Tokens of context, those of answers included; none stands for 1/2, 1, 2, 4 and 8 times the longest row of
    training, without those that cannot be had."""
    depths: tuple[float, ...] = tuple(range(0, 101, 10))
    """Where needles lie, in percent of the haystack."""
    samples: int | None = None
    """Rows of text, needles for each length and depth, samples of each task; None: 16, 5 and 20."""
    seed: int = 0
    """Of all samples."""
    haystack: str | None = None
    """Text file, directory or "stdlib" to hide needles in; None: an essay of our own."""
    squad: Path | None = None
    """Questions of qa_1, in the format of SQuAD; None: about towns that do not exist."""
    hotpotqa: Path | None = None
    """Questions of qa_2, in the format of HotpotQA; None: about the same towns."""
    text: str | None = None
    """Text file, directory or "stdlib" for the loss by position; None: what the run has held out, or "stdlib"."""
    batch_tokens: int = 16_384
    """Most tokens that are computed together; less takes less memory."""

    @property
    def nothing(self) -> bool:
        """Whether no evaluation is asked for."""
        return not self.loss_by_position and not self.needle and self.ruler is None

    def check(self) -> None:
        """Refuses values that mean nothing.

        Raises:
          UserError: naming the option.
        """
        if any(length < 1 for length in self.lengths):
            raise UserError(f"--lengths {min(self.lengths)}: must be at least 1 token")
        for name, value in (("samples", self.samples), ("batch-tokens", self.batch_tokens)):
            if value is not None and value < 1:
                raise UserError(f"--{name} {value}: must be at least 1")
        if not self.depths:
            raise UserError("--depths: needs at least one, for example 0 50 100")
        for depth in self.depths:
            if not 0 <= depth <= 100:
                raise UserError(f"--depths {depth:g}: must be between 0 and 100 percent")

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(self).items()}
