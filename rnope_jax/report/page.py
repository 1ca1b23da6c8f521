"""The page: what is on it, in which order, and what holds it together."""

import base64
import hashlib
from collections.abc import Callable, Sequence
from importlib.resources import files

from rnope_jax import __version__
from rnope_jax.report import attention, evaluations, sections
from rnope_jax.report.html import Markup, join, tag
from rnope_jax.report.record import Record

#: Sections in the order of the page: anchor, heading, contents.
_SECTIONS: tuple[tuple[str, str, Callable[[Sequence[Record]], Markup]], ...] = (
    ("overview", "Overview", sections.overview),
    ("model", "Model", sections.model),
    ("curves", "Curves", sections.curves),
    ("data", "Data", sections.data),
    ("evaluation", "Evaluation", evaluations.evaluations),
    ("attention", "Attention", attention.attention),
    ("samples", "Samples", sections.samples),
    ("checkpoints", "Checkpoints", sections.checkpoints),
    ("configuration", "Configuration", sections.configuration),
)


def page(records: Sequence[Record], made: str) -> str:
    """The page on one run, or on several side by side, as HTML.

    It holds everything that it shows and may fetch nothing: the browser is told to refuse.

    Args:
      records: what the runs have recorded.
      made: when, as it is to be shown.
    """
    style, script = _part("style.css"), _part("script.js")
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{allowed}'; base-uri 'none'"
    title = " and ".join(record.name for record in records)
    head = tag(
        "head",
        Markup('<meta charset="utf-8">'),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{policy}">'),
        Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        tag("title", f"{title} - rnope_jax"),
        tag("style", Markup(style)),
    )
    links = (tag("a", heading, href=f"#{anchor}") for anchor, heading, _ in _SECTIONS)
    body = tag(
        "body",
        tag("header", *_heading(records)),
        tag("nav", tag("div", *links)),
        tag("main", *(_section(anchor, heading, make(records)) for anchor, heading, make in _SECTIONS)),
        tag("footer", f"Written by rnope report, rnope_jax {__version__}, {made}."),
        tag("script", Markup(script)),
    )
    return f'<!doctype html>\n<html lang="en">\n{head}\n{body}\n</html>\n'


def _heading(records: Sequence[Record]) -> list[Markup]:
    if len(records) == 1:
        (only,) = records
        return [tag("h1", only.name), tag("p", tag("code", only.path), class_="lead"), *_problems(records)]
    names = join(
        join([tag("span", " and ", class_="against") if index else "", record.name])
        for index, record in enumerate(records)
    )
    legend = (
        tag("li", tag("span", record.name, class_=f"run c{index % 6}"), " ", tag("code", record.path, class_="soft"))
        for index, record in enumerate(records)
    )
    return [tag("h1", names), tag("ul", *legend, class_="runs"), *_problems(records)]


def _problems(records: Sequence[Record]) -> list[Markup]:
    return [
        tag("p", "Cannot be read: ", problem, class_="alert") for record in records for problem in record.unreadable
    ]


def _section(anchor: str, heading: str, contents: Markup) -> Markup:
    return tag("section", tag("h2", heading), contents, id=anchor)


def _part(name: str) -> str:
    return files("rnope_jax.report").joinpath(name).read_text(encoding="utf-8")
