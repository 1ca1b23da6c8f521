"""Pieces of HTML. Text becomes HTML here and nowhere else, so whatever a run is called, it stays text."""

import html
from collections.abc import Iterable, Sequence
from typing import Any


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def text(value: Any) -> Markup:
    """Any value as HTML: markup as it is, everything else escaped."""
    return value if isinstance(value, Markup) else Markup(html.escape(str(value)))


def tag(name: str, *children: Any, **attributes: Any) -> Markup:
    """An element; attributes without a value (None, False) are left out, `class_` becomes class, `_` becomes -."""
    given = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{html.escape(str(value))}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    return Markup(f"<{name}{given}>{join(children)}</{name}>")


def join(parts: Iterable[Any]) -> Markup:
    """Parts one after the other."""
    return Markup("".join(text(part) for part in parts))


def table(header: Sequence[Any], rows: Iterable[Sequence[Any]], *, class_: str | None = None) -> Markup:
    """A table that scrolls by itself where it is wider than the page; cells may be finished `td` elements."""
    head = tag("tr", *(tag("th", cell, scope="col") for cell in header))
    body = (tag("tr", *(_cell(cell, index) for index, cell in enumerate(row))) for row in rows)
    made = tag("table", tag("thead", head), tag("tbody", *body), class_=class_)
    return tag("div", made, class_="scroll", tabindex=0)


def _cell(value: Any, index: int) -> Markup:
    if isinstance(value, Markup) and value.startswith("<td"):
        return value
    return tag("th", value, scope="row") if index == 0 else tag("td", value)


def heat(value: float, shown: str, title: str | None = None) -> Markup:
    """A cell whose colour tells a value between 0 and 1."""
    return tag("td", shown, class_="heat", style=f"--v:{min(max(value, 0.0), 1.0):.3f}", title=title)


def missing(what: str, command: str | None = None) -> Markup:
    """A remark on what a run does not have, and the command that makes it."""
    made = () if command is None else (" ", tag("code", command))
    return tag("p", what, *made, class_="missing")
