"""Loss by position: how well a model predicts a token, by how many stand before it."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rnope_jax.config import STDLIB, Config, DataConfig
from rnope_jax.data import corpus
from rnope_jax.data.sources import read_documents
from rnope_jax.errors import UserError
from rnope_jax.evaluation.lengths import LengthError
from rnope_jax.evaluation.likelihood import likelihoods
from rnope_jax.evaluation.records import Records
from rnope_jax.inference import TextModel

#: Bins for each doubling of the position.
_BINS = 4
#: Digits of a loss that are kept.
_DIGITS = 5


@dataclass(frozen=True)
class PositionLoss:
    """Mean losses in nats per token, over rows of one length."""

    losses: np.ndarray
    """[L]: of the token at each position, counted from 1: that many stand before it, the start token included."""
    lengths: tuple[int, ...]
    """Lengths that are reported, rising; the last is L."""
    rows: int

    def by_length(self, length: int) -> tuple[float, float]:
        """Mean loss over the first `length` positions, and over the last quarter of them.

        What stands behind a token has no influence on it, so these are the losses of rows of that length.
        """
        own = self.losses[:length]
        return float(own.mean()), float(own[3 * length // 4 :].mean())

    def bins(self) -> list[tuple[int, int, float]]:
        """First position, last position and mean loss, in bins that grow with the position."""
        total = len(self.losses)
        edges = {round(2 ** (step / _BINS)) for step in range(_BINS * total.bit_length() + 1)}
        # The last bin takes in what would be less than half of one.
        starts = sorted(edge for edge in edges if edge == 1 or total - edge + 1 >= edge * (2 ** (1 / _BINS) - 1) / 2)
        ends = [start - 1 for start in starts[1:]] + [total]
        return [(a, b, float(self.losses[a - 1 : b].mean())) for a, b in zip(starts, ends, strict=True)]

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "rows": self.rows,
            "by_length": [
                {"length": length, "loss": mean, "loss_last_quarter": last}
                for length, (mean, last) in ((length, self.by_length(length)) for length in self.lengths)
            ],
            "by_position": [{"from": first, "to": last, "loss": loss} for first, last, loss in self.bins()],
        }


def rows_of(model: TextModel, texts: Iterable[str], length: int, most: int) -> list[list[int]]:
    """Rows of a start token and `length` tokens of text, at most as many as there is text for.

    The longest texts come first, so that as few rows as possible hold several; where a text ends in a
    row, the next one follows as text does, without a mark.

    Args:
      model: whose tokens.
      texts: of any lengths.
      length: tokens of a row, the start token not counted.
      most: rows wanted.

    Raises:
      LengthError: if the texts are too short for a single row.
    """
    rows: list[list[int]] = []
    rest: list[int] = []
    for text in sorted(texts, key=len, reverse=True):
        rest += model.tokenizer.encode(text)
        while len(rest) >= length and len(rows) < most:
            rows.append([model.tokenizer.bos_id, *rest[:length]])
            rest = rest[length:]
        if len(rows) == most:
            return rows
    if not rows:
        raise LengthError(
            f"--lengths {length}: all texts together have only {len(rest)} tokens; give smaller lengths, or more text "
            "with --text",
            length,
        )
    return rows


def texts(model: TextModel, run: Path, config: Config | None, given: str | None) -> list[str]:
    """What loss is measured on: the given texts, else what a run has held out, else the standard library's sources.

    Args:
      model: the model.
      run: its directory.
      config: its configuration, for a run.
      given: a text file, a directory, or "stdlib".

    Raises:
      UserError: if the texts cannot be read.
    """
    if given is None and config is not None and (store := corpus.held_out(config, run)) is not None:
        ends = [*store.starts[1:], len(store)]
        # Without the tokens that start and end each document.
        return [
            model.tokenizer.decode(store.read(int(start) + 1, int(end) - 1).tolist())
            for start, end in zip(store.starts, ends, strict=True)
        ]
    documents, _ = read_documents([given or STDLIB], DataConfig().suffixes, "--text")
    if not documents:
        raise UserError(
            f"--text {given}: no text found; directories are searched for {', '.join(DataConfig().suffixes)}"
        )
    return [document.text for document in documents]


def measure(
    model: TextModel,
    rows: Sequence[list[int]],
    lengths: Sequence[int],
    file: Path,
    *,
    batch_tokens: int,
    report: Callable[[str], None] = print,
) -> PositionLoss:
    """Measures the loss at every position; rows that an interrupted evaluation has measured are taken from its file.

    Args:
      model: the model.
      rows: a start token and L tokens each.
      lengths: to be reported, none above L.
      file: where the losses of each row are kept, with 5 digits.
      batch_tokens: most tokens that are computed together.
      report: told how far it has got.

    Raises:
      UserError: if the file holds the losses of other rows.
    """
    records = Records(file)
    known = {record["index"]: record for record in records.found}
    for index, record in known.items():
        if index < len(rows) and record["tokens"] != rows[index]:
            raise UserError(f"{file}: holds the losses of another text; give another directory with --out")
    for numbers, found in likelihoods(model.config, model.params, rows, batch_tokens=batch_tokens, done=set(known)):
        made = [
            {"index": number, "tokens": rows[number], "loss": [_short(loss) for loss in own.loss.tolist()]}
            for number, own in zip(numbers, found, strict=True)
            if number not in known
        ]
        records.append(made)
        known |= {record["index"]: record for record in made}
        report(f"loss by position: {sum(index in known for index in range(len(rows)))} of {len(rows)} rows")
    records.finish([known[index] for index in sorted(known)])
    losses = np.mean([known[index]["loss"] for index in range(len(rows))], axis=0)
    return PositionLoss(losses, tuple(sorted(lengths)), len(rows))


def _short(loss: float) -> float:
    return round(loss, _DIGITS)
