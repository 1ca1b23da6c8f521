"""One thing that the doctor looked at."""

from dataclasses import dataclass
from typing import Literal

#: fine; note: something optional is missing, or worth a look; stop: a run would not begin, or not last.
State = Literal["fine", "note", "stop"]


@dataclass(frozen=True)
class Finding:
    """What was looked at, what was found, and what to do about it."""

    section: str
    name: str
    value: str
    state: State = "fine"
    remedy: str | None = None
    """A command, or what to change."""
