"""Curves as SVG that stretches with the page; labels are HTML, so that they stay readable on a phone."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rnope_jax.report.html import Markup, join, tag

#: Most points of a curve that are drawn.
_POINTS = 400

#: Labels behind this share of the axis end where they belong, rather than stand centred there.
_LAST = 0.96

#: The drawing's own units, whatever its size.
_SIZE = 1000


@dataclass(frozen=True)
class Curve:
    """Points that belong together."""

    name: str
    colour: int
    points: Sequence[tuple[float, float]]
    """Rising in x; what is not finite leaves a gap."""
    style: Literal["line", "thin", "dashed", "dots"] = "line"


@dataclass(frozen=True)
class Plot:
    """Curves over one axis."""

    title: str
    unit: str
    x: str
    """What the horizontal axis counts."""
    curves: Sequence[Curve]
    log_x: bool = False
    log_y: bool = False
    zero: bool = False
    """Whether the vertical axis begins at zero."""
    marks: Sequence[tuple[float, str]] = ()
    """Vertical lines: where, and what begins there."""


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float
    log: bool

    def place(self, value: float) -> float:
        """From 0 at the low end to 1."""
        low, high, value = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return (value - low) / (high - low) if high > low else 0.5


def draw(plot: Plot) -> Markup | None:
    """The plot as HTML; None where there is not a single point."""
    curves = [
        (curve, [(x, y) for x, y in curve.points if _usable(x, plot.log_x) and (_usable(y, plot.log_y) or _gap(y))])
        for curve in plot.curves
    ]
    xs = [x for _, points in curves for x, _ in points]
    ys = [y for _, points in curves for _, y in points if math.isfinite(y)]
    if not ys:
        return None
    across = _Axis(min(xs), max(xs), plot.log_x)
    down = _vertical(ys, plot)
    rules = (_decades if plot.log_y else _ticks)(down, 5)
    marks = [(x, name) for x, name in plot.marks if across.low < x < across.high]
    drawn = join(
        [
            *(_line(0, 1 - down.place(y), 1, 1 - down.place(y), "grid") for y in rules),
            *(_line(across.place(x), 0, across.place(x), 1, "mark") for x, _ in marks),
            *(_path(curve, points, across, down) for curve, points in curves),
        ]
    )
    svg = tag(
        "svg", drawn, viewBox=f"0 0 {_SIZE} {_SIZE}", preserveAspectRatio="none", role="img", aria_label=plot.title
    )
    named = (tag("span", name, class_="named", style=_beside(across.place(x))) for x, name in marks)
    left = (tag("span", short(y), style=f"bottom:{_percent(down.place(y))}") for y in rules)
    columns = (_powers if plot.log_x else _ticks)(across, 5)
    below = (
        tag("span", _count(x), style=f"left:{_percent(at)}", class_="last" if at > _LAST else None)
        for x in columns
        for at in (across.place(x),)
    )
    data = {
        "x": [across.low, across.high, across.log],
        "y": [down.low, down.high, down.log],
        "name": plot.x,
        "curves": [
            [curve.name, curve.colour, [[_rounded(x), _rounded(y)] for x, y in _fewer(points) if math.isfinite(y)]]
            for curve, points in curves
            if curve.style != "dots"  # which mark the points of another curve
        ],
    }
    return tag(
        "figure",
        tag("figcaption", tag("b", plot.title), " ", tag("span", plot.unit)),
        tag("div", *left, class_="ys"),
        tag("div", svg, *named, class_="canvas", data_plot=json.dumps(data, separators=(",", ":")), tabindex=0),
        tag("div", *below, tag("i", plot.x), class_="xs"),
        class_="plot",
    )


def short(value: float) -> str:
    """A number in few characters: 1.5k, 20M, 0.002, 3e-05."""
    if value == 0:
        return "0"
    size = abs(value)
    for limit, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size >= limit:
            return f"{value / limit:.4g}{unit}"
    return f"{value:.3g}" if size >= 1e-3 else f"{value:.1e}".replace("e-0", "e-")


def _usable(value: float, log: bool) -> bool:
    return math.isfinite(value) and (value > 0 or not log)


def _gap(value: float) -> bool:
    return not math.isfinite(value)


def _vertical(values: Sequence[float], plot: Plot) -> _Axis:
    low, high = min(values), max(values)
    if plot.log_y:
        return _Axis(low / 1.1, high * 1.1, log=True)
    if plot.zero:
        low = min(low, 0.0)
    room = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    return _Axis(low if plot.zero and low == 0 else low - room, high + room, log=False)


def _ticks(axis: _Axis, wanted: int) -> list[float]:
    """Round numbers within an axis, about as many as wanted."""
    if axis.high <= axis.low:
        return [axis.low]
    rough = (axis.high - axis.low) / wanted
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= rough)
    first, last = math.ceil(axis.low / step - 1e-9), math.floor(axis.high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def _powers(axis: _Axis, wanted: int) -> list[float]:
    """Powers of two, as lengths of texts are."""
    first, last = (math.log2(end) for end in (axis.low, axis.high))
    powers = range(math.ceil(first - 1e-9), math.floor(last + 1e-9) + 1)
    return [2.0**power for power in powers][:: max(1, -(-len(powers) // (wanted + 1)))]


def _decades(axis: _Axis, wanted: int) -> list[float]:
    """Powers of ten, with twos and fives between them where they are few."""
    first, last = math.floor(math.log10(axis.low)), math.ceil(math.log10(axis.high))
    for factors in ((1,), (1, 3), (1, 2, 5)):
        found = [factor * 10.0**power for power in range(first, last + 1) for factor in factors]
        found = [value for value in found if axis.low <= value <= axis.high]
        if len(found) >= 3 or factors == (1, 2, 5):
            return found[:: max(1, -(-len(found) // (wanted + 1)))]
    raise AssertionError


def _path(curve: Curve, points: Sequence[tuple[float, float]], across: _Axis, down: _Axis) -> Markup:
    drawn, pen = [], "M"
    for x, y in _fewer(points):
        if not math.isfinite(y):
            pen = "M"
            continue
        place = f"{_SIZE * across.place(x):.1f} {_SIZE * (1 - down.place(y)):.1f}"
        # A line without length and with round ends is a dot, however the drawing is stretched.
        drawn.append(f"M{place}h0" if curve.style == "dots" else f"{pen}{place}")
        pen = "L"
    return tag("path", d="".join(drawn), class_=f"{curve.style} c{curve.colour}")


def _fewer(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most `_POINTS` points: the lowest and the highest of each stretch, so that no spike is lost."""
    if len(points) <= _POINTS:
        return list(points)
    kept: list[tuple[float, float]] = []
    stretch = 2 * len(points) / _POINTS
    for index in range(_POINTS // 2):
        part = points[round(index * stretch) : round((index + 1) * stretch)]
        finite = [point for point in part if math.isfinite(point[1])]
        if not finite:
            kept += part[:1]
            continue
        low, high = min(finite, key=lambda p: p[1]), max(finite, key=lambda p: p[1])
        kept += sorted({low, high})
    return kept


def _line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    ends = {"x1": x1, "y1": y1, "x2": x2, "y2": y2}
    return tag("line", class_=class_, **{name: f"{_SIZE * value:.1f}" for name, value in ends.items()})


def _count(value: float) -> str:
    """A number on the horizontal axis; lengths of texts are known by all of their digits."""
    return f"{value:,.0f}" if value == round(value) and abs(value) < 1e6 else short(value)


def _beside(share: float) -> str:
    """Where the name of a mark stands: on the side that has more room."""
    return f"left:{_percent(share)}" if share < 0.5 else f"right:{_percent(1 - share)}"


def _percent(share: float) -> str:
    return f"{100 * share:.2f}%"


def _rounded(value: float) -> float:
    return float(f"{value:.5g}") if not float(value).is_integer() else value
