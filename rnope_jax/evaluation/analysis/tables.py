"""Tables of attention in the layout of the paper's (arXiv 2501.18795), to lie beside them."""

from collections.abc import Iterator, Sequence

from rich.table import Table

from rnope_jax.evaluation.analysis.probe import SEGMENTS
from rnope_jax.evaluation.analysis.results import Analysis, Average


def tables(analyses: Sequence[Analysis], depth: float) -> Iterator[Table]:
    """All tables of models that were measured at the same lengths, with the fact at one depth."""
    yield mass_by_length(analyses, depth)
    yield mass_by_kind(analyses, depth)
    yield entropy(analyses, depth)
    yield retrieval_heads(analyses, depth)


def mass_by_length(analyses: Sequence[Analysis], depth: float) -> Table:
    """As Table 3: where attention goes, for each length and model, over all layers."""
    table = _table(f"Attention mass, fact at {depth:.0%} of the text (as Table 3)")
    table.add_column("context", justify="right")
    table.add_column("model")
    for name in SEGMENTS:
        table.add_column(name, justify="right")
    for length in _lengths(analyses):
        for index, analysis in enumerate(analyses):
            average = analysis.at(length, depth).groups["all"]
            table.add_row("" if index else f"{length:,}", analysis.model, *_mass(average))
        table.add_section()
    return table


def mass_by_kind(analyses: Sequence[Analysis], depth: float) -> Table:
    """As Table 4: the same over layers without and with rotary positions."""
    table = _table("Attention mass by kind of layer (as Table 4)")
    table.add_column("context", justify="right")
    table.add_column("model")
    for kind in ("NoPE", "RoPE"):
        for name in SEGMENTS:
            table.add_column(f"{kind}\n{name}", justify="right")
    for length in _lengths(analyses):
        for index, analysis in enumerate(analyses):
            groups = analysis.at(length, depth).groups
            cells = [cell for kind in ("nope", "rope") for cell in _mass(groups.get(kind))]
            table.add_row("" if index else f"{length:,}", analysis.model, *cells)
        table.add_section()
    return table


def entropy(analyses: Sequence[Analysis], depth: float) -> Table:
    """As Table 9: entropy in bits by length, and what share of even attention's it is."""
    table = _table("Attention entropy in bits (and as share of even attention's; as Table 9)")
    table.add_column("model")
    table.add_column("layers")
    lengths = _lengths(analyses)
    for length in lengths:
        table.add_column(f"{length:,}", justify="right")
    for analysis in analyses:
        found = [analysis.at(length, depth).groups for length in lengths]
        for name in found[0] if len(found[0]) > 2 else ("all",):
            cells = [f"{groups[name].entropy_bits:.2f} ({groups[name].relative_entropy:.2f})" for groups in found]
            table.add_row(analysis.model if name == "all" else "", _NAMES[name], *cells)
        table.add_section()
    return table


def retrieval_heads(analyses: Sequence[Analysis], depth: float) -> Table:
    """The heads with most mass on the fact, at the longest length."""
    length = _lengths(analyses)[-1]
    table = _table(f"Heads that attend most to the fact, {length:,} tokens")
    for name in ("model", "layer", "head", "kind", "needle", "times even"):
        table.add_column(name, justify="left" if name in ("model", "kind") else "right")
    for analysis in analyses:
        found = analysis.at(length, depth)
        for index, head in enumerate(found.retrieval_heads):
            cells = head.kind, f"{head.needle:.4f}", f"{head.needle / found.even:.1f}"
            table.add_row("" if index else analysis.model, str(head.layer), str(head.head), *cells)
        if not found.retrieval_heads:
            table.add_row(analysis.model, *["-"] * 5)
        table.add_section()
    return table


_NAMES = {"all": "all", "nope": "NoPE", "rope": "RoPE"}


def _table(title: str) -> Table:
    # At least as wide as its title, which would be folded.
    return Table(title=title, title_style="", title_justify="left", min_width=len(title))


def _lengths(analyses: Sequence[Analysis]) -> list[int]:
    return sorted({found.length for found in analyses[0].findings})


def _mass(average: Average | None) -> list[str]:
    return ["-"] * len(SEGMENTS) if average is None else [f"{average.mass[name]:.4f}" for name in SEGMENTS]
