"""The results of benchmarks/attention.py as a table and as a figure."""

from pathlib import Path
from typing import Any


def table(found: dict[str, Any]) -> str:
    """A table in Markdown: milliseconds of a forward and a backward pass, and of the limit."""
    names = list(dict.fromkeys(name for case in found["cases"] for name in case["contenders"]))
    lines = [["layer", "tokens", *names, "limit"], ["---"] * (len(names) + 3)]
    for case in found["cases"]:
        cells = [_layer(case["window"], case["packed"]), f"{case['length']:,}"]
        for name in names:
            time = case["contenders"].get(name, {}).get("both_ms")
            cells.append("-" if time is None else f"{time:,.1f}")
        lines.append([*cells, f"{case['limit_ms']['both']:,.1f}"])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def figure(found: dict[str, Any], path: Path) -> None:
    """Draws time against length, with the limit."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels = list(dict.fromkeys((case["window"], case["packed"]) for case in found["cases"]))
    drawn, axes = plt.subplots(
        1, len(panels), figsize=(3.6 * len(panels), 3.8), sharey=True, squeeze=False, layout="constrained"
    )
    names = list(dict.fromkeys(name for case in found["cases"] for name in case["contenders"]))
    for panel, place in zip(panels, axes[0], strict=True):
        cases = [case for case in found["cases"] if (case["window"], case["packed"]) == panel]
        for number, name in enumerate(names):
            times = [(case["length"], case["contenders"].get(name, {}).get("both_ms")) for case in cases]
            if points := [point for point in times if point[1] is not None]:
                place.plot(*zip(*points, strict=True), "o-", color=f"C{number}", markersize=3, label=name)
        limit = [(case["length"], case["limit_ms"]["both"]) for case in cases]
        place.plot(*zip(*limit, strict=True), "k--", linewidth=1, label="matrix products of visible pairs")
        place.set(xscale="log", yscale="log", xlabel="tokens", title=_layer(*panel))
        place.set_xscale("log", base=2)
        place.grid(alpha=0.3)
    axes[0][0].set_ylabel("ms, forward and backward")
    axes[0][0].legend(frameon=False, fontsize=7)
    drawn.savefig(path, dpi=120)
    plt.close(drawn)


def _layer(window: int | None, packed: bool) -> str:
    return f"{'full' if window is None else f'window {window}'}, {'packed' if packed else 'one document'}"
