"""Tables of evaluations on the terminal."""

from collections.abc import Sequence

from rich.console import Group
from rich.table import Table

from rnope_jax.evaluation.needle import Found
from rnope_jax.evaluation.position import PositionLoss
from rnope_jax.evaluation.ruler.measure import Ruler


def ruler_table(ruler: Ruler, context: int) -> Group:
    """Scores of tasks and groups of them, by length."""
    table = _by_length("RULER", "task", ruler.lengths, context)
    small = False
    for task in ruler.tasks:
        cells = [ruler.cell(task, length) for length in ruler.lengths]
        small |= not all(cell.as_defined for cell in cells)
        table.add_row(task, *(f"{cell.score:.1f}" + ("" if cell.as_defined else "°") for cell in cells))
    table.add_section()
    for group in ruler.groups:
        table.add_row(f"mean, {group}", *(f"{ruler.mean(group, length):.1f}" for length in ruler.lengths))
    notes = ["° a smaller variant of the task: NVIDIA's does not fit into so few tokens"] if small else []
    return Group(table, *_past(ruler.lengths, context), *notes)


def needle_table(found: Found, context: int) -> Group:
    """Share of needles found, by depth and length."""
    table = _by_length("Needles found, %", "depth", found.lengths, context)
    for depth, row in zip(found.depths, found.scores, strict=True):
        table.add_row(f"{depth:g}%", *(f"{score:.0f}" for score in row))
    return Group(table, *_past(found.lengths, context))


def loss_table(found: PositionLoss, context: int) -> Group:
    """Loss by length."""
    table = _by_length("Loss, nats per token", "over", found.lengths, context)
    pairs = [found.by_length(length) for length in found.lengths]
    table.add_row("all positions", *(f"{mean:.4f}" for mean, _ in pairs))
    table.add_row("the last quarter", *(f"{last:.4f}" for _, last in pairs))
    return Group(table, *_past(found.lengths, context))


def _by_length(title: str, first: str, lengths: Sequence[int], context: int) -> Table:
    """An empty table with a column for each length; those past training are marked."""
    table = Table(title=title, title_justify="left")
    table.add_column(first)
    for length in lengths:
        table.add_column(f"{length:,}" + "*" * bool(_past([length], context)), justify="right")
    return table


def _past(lengths: Sequence[int], context: int) -> list[str]:
    """A note where lengths are beyond training, as far as that is known."""
    past = 0 < context < max(lengths)
    return [f"* longer than any row of training ({context:,})"] if past else []
