"""Draws the figures of the documentation from the code that they explain.

python docs/draw.py           writes docs/figures/*.svg
python docs/draw.py --check   tells whether they are as they would be drawn
"""

import argparse
import html
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from rnope_jax import flops
from rnope_jax.attention import visible
from rnope_jax.config import ModelConfig
from rnope_jax.layers import LayerKind, kinds, rnope_swa

FOLDER = Path(__file__).parent / "figures"

#: Readable on white and on black; a page in dark mode needs no other file.
STYLE = """
text{font:14px system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif;fill:#1c1f22}
.soft{fill:#5d656c;font-size:12px}.title{font-weight:600}.end{text-anchor:end}.mid{text-anchor:middle}
.off{fill:#eceee9}.a{fill:#1f5fbf}.b{fill:#c1541a}.c{fill:#2c7d52}.grid{stroke:#e0e2dd}
.ours{stroke:#1f5fbf;fill:none;stroke-width:2.4}.full{stroke:#c1541a;fill:none;stroke-width:2.4}
.oursText{fill:#1f5fbf}.fullText{fill:#c1541a}
@media(prefers-color-scheme:dark){text{fill:#e7e9ea}.soft{fill:#9aa4ab}.off{fill:#23282d}.grid{stroke:#30363b}
.a{fill:#6ea8ff}.b{fill:#f2935a}.c{fill:#63c08a}.ours{stroke:#6ea8ff}.full{stroke:#f2935a}
.oursText{fill:#6ea8ff}.fullText{fill:#f2935a}}
"""

#: Of the pictures of masks: tokens, the window, and the lengths of documents that are packed.
TOKENS, WINDOW, PACKED = 24, 6, (10, 5, 9)

#: Contexts of the picture of costs.
LENGTHS = tuple(2**power for power in range(12, 21))


def command_r7b() -> ModelConfig:
    """The published shape."""
    return ModelConfig(
        pattern=rnope_swa(window=4096),
        num_layers=32,
        vocab_size=256_000,
        d_model=4096,
        d_ff=14_336,
        num_heads=32,
        num_kv_heads=8,
        head_dim=128,
    )


def figures() -> dict[str, str]:
    """All figures by file name, as SVG."""
    return {"masks.svg": masks(), "layers.svg": layers(), "cost.svg": cost(command_r7b())}


def mask(window: int | None, documents: Sequence[int]) -> np.ndarray:
    """[queries, keys]: 0 where nothing is seen, else the number of the document, from 1."""
    index = np.arange(sum(documents))
    segments = np.repeat(np.arange(1, len(documents) + 1), documents)
    seen = np.asarray(visible(index[:, None], index[None, :], window))
    return np.where(seen & (segments[:, None] == segments[None, :]), segments[:, None], 0)


def masks() -> str:
    """What each query sees, for both kinds of layers, in a row of one document and, below, in a packed row."""
    panels = [
        ("window layer, RoPE", f"each token sees {WINDOW}, itself included", mask(WINDOW, (TOKENS,))),
        ("full layer, NoPE", "each token sees all before it", mask(None, (TOKENS,))),
        ("window layer, packed row", "three documents do not see each other", mask(WINDOW, PACKED)),
        ("full layer, packed row", "positions restart, attention stops", mask(None, PACKED)),
    ]
    cell, gap, head = 10, 46, 46
    side = cell * TOKENS
    parts: list[str] = []
    for number, (title, note, values) in enumerate(panels):
        left, above = number % 2 * (side + gap), number // 2 * (head + side + gap / 2)
        parts += [_text(left, above + 16, title, "title"), _text(left, above + 34, note, "soft")]
        for (query, key), document in np.ndenumerate(values):
            class_ = "off" if document == 0 else "abc"[int(document) - 1]
            parts.append(_rect(left + cell * key, above + head + cell * query, cell - 1, cell - 1, class_))
    foot = 2 * (head + side) + gap / 2 + 20
    parts.append(_text(0, foot, "rows: the token that asks; columns: the token that is seen", "soft"))
    return _svg(2 * side + gap, foot + 8, parts, "Attention masks of the two kinds of layers")


def layers() -> str:
    """Two periods of the pattern, and the slots of the cache that each layer keeps of 32,768 tokens."""
    context = 32_768
    pattern: tuple[LayerKind, ...] = kinds(rnope_swa(window=4096), 8)
    parts = [
        _text(0, 16, "Two periods of RNoPE-SWA, as in Command R7B", "title"),
        _text(0, 34, f"bars: keys and values that a layer keeps of {context:,} tokens", "soft"),
    ]
    width, row, top, label = 420, 26, 50, 232
    for number, kind in enumerate(pattern):
        y, slots = top + row * number, kind.cache_length(context)
        parts.append(_text(label - 12, y + 14, f"{number}  {kind}", "end"))
        parts.append(_rect(label, y, width * slots / context, row - 7, "a" if kind.window else "b"))
        parts.append(_text(label + width * slots / context + 8, y + 14, f"{slots:,}", "soft"))
    return _svg(label + width + 70, top + row * len(pattern) + 4, parts, "Layers of the pattern and their caches")


def cost(model: ModelConfig) -> str:
    """Cache and attention of a hybrid beside full attention in every layer, by context."""
    twin = flops.full_twin(model)
    cache = [[flops.cache_bytes(m, length, 2) / 2**30 for length in LENGTHS] for m in (model, twin)]
    reading = [[_attention(m, length) / 1e15 for length in LENGTHS] for m in (model, twin)]
    parts = list(_panel(0, "Key-value cache of one sequence, bfloat16", "GiB", *cache))
    parts += _panel(480, "Attention when the context is read", "PFLOP", *reading)
    return _svg(950, 330, parts, "Cache and attention FLOPs by context, Command R7B's shape beside full attention")


def _attention(model: ModelConfig, length: int) -> int:
    return sum(flops.attention_flops(model, kind, [length]) for kind in model.layer_kinds)


def _panel(left: float, title: str, unit: str, ours: Sequence[float], full: Sequence[float]) -> Iterator[str]:
    """Two curves over `LENGTHS`, both axes logarithmic, with their ratio at the end."""
    x0, width, y0, height = left + 52, 300, 42, 230
    low, high = math.floor(math.log10(min(ours))), math.ceil(math.log10(max(full)))
    first, last = math.log2(LENGTHS[0]), math.log2(LENGTHS[-1])

    def at(length: int, value: float) -> tuple[float, float]:
        across = (math.log2(length) - first) / (last - first)
        return x0 + width * across, y0 + height * (high - math.log10(value)) / (high - low)

    yield _text(left, 16, title, "title")
    for power in range(low, high + 1):
        _, y = at(LENGTHS[0], 10.0**power)
        yield f'<line class="grid" x1="{x0}" y1="{y:.1f}" x2="{x0 + width}" y2="{y:.1f}"/>'
        yield _text(x0 - 8, y + 4, f"{10.0**power:g}", "soft end")
    yield _text(x0 - 8, y0 - 12, unit, "soft end")
    for length in LENGTHS[::2]:
        x, _ = at(length, 10.0**low)
        yield _text(x, y0 + height + 18, f"{length // 1024}k" if length < 2**20 else "1M", "soft mid")
    yield _text(x0 + width, y0 + height + 36, "tokens of context", "soft end")
    for name, class_, values in (("full attention", "full", full), ("RNoPE-SWA", "ours", ours)):
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(at, LENGTHS, values))
        yield f'<polyline class="{class_}" points="{points}"/>'
        x, y = at(LENGTHS[-1], values[-1])
        yield _text(x + 8, y + 4, name, f"{class_}Text")
        if class_ == "ours":
            yield _text(x + 8, y + 20, f"{values[-1] / full[-1]:.0%} of it", "soft")


def _text(x: float, y: float, words: str, class_: str = "") -> str:
    given = f' class="{class_}"' if class_ else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{given}>{html.escape(words)}</text>'


def _rect(x: float, y: float, width: float, height: float, class_: str) -> str:
    return f'<rect x="{x:g}" y="{y:g}" width="{width:.4g}" height="{height:g}" class="{class_}"/>'


def _svg(width: float, height: float, parts: Sequence[str], title: str) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" role="img">'
    body = "\n".join(parts)
    return f"{head}\n<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n{body}\n</svg>\n"


def main() -> int:
    """Writes or compares; the exit code is 1 if a figure is not as it would be drawn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    check = parser.parse_args().check
    old = []
    for name, drawn in figures().items():
        path = FOLDER / name
        if check:
            old += [name] if not path.exists() or path.read_text(encoding="utf-8") != drawn else []
        else:
            FOLDER.mkdir(exist_ok=True)
            path.write_text(drawn, encoding="utf-8")
            print(path)
    for name in old:
        print(f"{name} is not as it would be drawn; run: python docs/draw.py", file=sys.stderr)
    return int(bool(old))


if __name__ == "__main__":
    sys.exit(main())
