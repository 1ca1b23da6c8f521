"""What the checks share: the exports to look at, and the table of what was found."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Reference:
    """What our model computes."""

    name: str
    path: Path
    tokens: np.ndarray
    """[S], S more than three windows."""
    logits: np.ndarray
    """[S, vocab_size]."""
    prompt: np.ndarray
    """Tokens past twice the window."""
    made: np.ndarray
    """The most likely continuation of the prompt."""
    encoded: dict[str, list[int]]
    """Texts and their tokens, the start token included; empty where there is no tokenizer."""


def references(directory: Path, kind: str, only: list[str]) -> list[Reference]:
    """The models under `directory` that have been exported as `kind`."""
    found = []
    for path in sorted(directory.iterdir()):
        if (path / kind).exists() and (not only or path.name in only):
            arrays = np.load(path / "reference.npz")
            encoded = json.loads((path / "encoded.json").read_text())
            found.append(Reference(path.name, path, **arrays, encoded=encoded))
    if not found:
        raise SystemExit(f"{directory}: no exports of the kind {kind}; make them with tests.parity.by_hand.exports")
    return found


@dataclass
class Table:
    """Rows of findings; each is printed as soon as it is known."""

    failed: list[str] = field(default_factory=list)

    def add(self, model: str, program: str, what: str, error: float, limit: float) -> None:
        """A number that must not be above `limit`."""
        self._row(model, program, what, f"{error:.1e}", bool(error <= limit))

    def equal(self, model: str, program: str, what: str, actual: object, expected: object) -> None:
        """Two lists that must be equal."""
        same = list(actual) == list(expected)  # type: ignore[call-overload]
        self._row(model, program, what, "equal" if same else "DIFFER", same)

    def note(self, model: str, program: str, what: str, outcome: str, passed: bool) -> None:
        """Anything else."""
        self._row(model, program, what, outcome, passed)

    def _row(self, model: str, program: str, what: str, outcome: str, passed: bool) -> None:
        print(f"| {model:16} | {program:24} | {what:24} | {outcome:10} | {'pass' if passed else 'FAIL'} |", flush=True)
        if not passed:
            self.failed.append(f"{model}: {what}")

    def close(self) -> None:
        """Ends the process, with 1 if a row failed."""
        print(f"{len(self.failed)} failed" + "".join(f"\n  {line}" for line in self.failed))
        raise SystemExit(bool(self.failed))
