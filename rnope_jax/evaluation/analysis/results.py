"""What an analysis found, as values that tables and figures read and JSON keeps."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rnope_jax.evaluation.analysis.measure import Measured, bin_edges
from rnope_jax.evaluation.analysis.probe import NEEDLE, SEGMENTS
from rnope_jax.layers import LayerKind

#: Kinds of layers over which averages are taken.
GROUPS: dict[str, Callable[[LayerKind], bool]] = {
    "all": lambda kind: True,
    "nope": lambda kind: kind.rope_theta is None,
    "rope": lambda kind: kind.rope_theta is not None,
}

#: How many of the heads that attend most to the fact are named.
_NAMED = 10


@dataclass(frozen=True)
class Average:
    """Over the heads of some layers."""

    layers: int
    mass: dict[str, float]
    """By part of the text; they sum to 1."""
    entropy_bits: float
    relative_entropy: float
    """1 would be even attention to all keys that a query sees."""
    curve: tuple[float, ...]
    """Mean weight of a key, by bin of positions."""


@dataclass(frozen=True)
class RetrievalHead:
    """A head and how much of its attention goes to the fact."""

    layer: int
    head: int
    kind: str
    needle: float


@dataclass(frozen=True)
class Finding:
    """Of one model at one length and depth."""

    length: int
    depth: float
    edges: tuple[int, ...]
    """Positions where the bins of curves begin, and the end of the last."""
    groups: dict[str, Average]
    """"all", and "nope" and "rope" where there are such layers."""
    even: float
    """Mass on the fact if all tokens of a text got the same."""
    retrieval_heads: tuple[RetrievalHead, ...]
    """The heads with most mass on the fact, the first most; none that gives it no more than an even share."""
    heads: dict[str, list] | None
    """By layer and head, where asked for: mass [layers, heads, parts], entropy_bits, relative_entropy."""


@dataclass(frozen=True)
class Analysis:
    """Of one model."""

    model: str
    step: int
    pattern: tuple[str, ...]
    """The kind of each layer."""
    trained_context: int
    findings: tuple[Finding, ...]

    def at(self, length: int, depth: float) -> Finding:
        """The finding of a length and depth."""
        return next(found for found in self.findings if (found.length, found.depth) == (length, depth))


def summarize(measured: Measured, *, per_head: bool) -> Finding:
    """Averages over heads and layers."""
    needle = measured.mass[..., NEEDLE]
    order = np.argsort(-needle, axis=None, kind="stable")[:_NAMED]
    top = [np.unravel_index(index, needle.shape) for index in order]
    return Finding(
        length=measured.length,
        depth=measured.depth,
        edges=tuple(bin_edges(measured.length).tolist()),
        groups=dict(_averages(measured)),
        even=measured.even,
        retrieval_heads=tuple(
            RetrievalHead(int(layer), int(head), str(measured.kinds[layer]), float(needle[layer, head]))
            for layer, head in top
            if needle[layer, head] > measured.even
        ),
        heads={
            "mass": measured.mass.tolist(),
            "entropy_bits": measured.entropy.tolist(),
            "relative_entropy": measured.relative_entropy.tolist(),
        }
        if per_head
        else None,
    )


def _averages(measured: Measured) -> Iterator[tuple[str, Average]]:
    for name, belongs in GROUPS.items():
        layers = [index for index, kind in enumerate(measured.kinds) if belongs(kind)]
        if layers:
            mass = measured.mass[layers].mean((0, 1))
            yield (
                name,
                Average(
                    layers=len(layers),
                    mass=dict(zip(SEGMENTS, mass.tolist(), strict=True)),
                    entropy_bits=float(measured.entropy[layers].mean()),
                    relative_entropy=float(measured.relative_entropy[layers].mean()),
                    curve=tuple(measured.curve[layers].mean(0).tolist()),
                ),
            )


def to_dict(analyses: list[Analysis], settings: dict[str, Any]) -> dict[str, Any]:
    """Everything, ready to be written as JSON."""
    return {"what": "attention", "settings": settings, "models": [asdict(analysis) for analysis in analyses]}


def from_dict(data: Mapping[str, Any]) -> Analysis:
    """One of the models of `to_dict`, as JSON gives it back."""

    def finding(found: Mapping[str, Any]) -> Finding:
        groups = {
            name: Average(**{**average, "curve": tuple(average["curve"])}) for name, average in found["groups"].items()
        }
        heads = tuple(RetrievalHead(**head) for head in found["retrieval_heads"])
        return Finding(**{**found, "edges": tuple(found["edges"]), "groups": groups, "retrieval_heads": heads})

    findings = tuple(finding(found) for found in data["findings"])
    return Analysis(**{**data, "pattern": tuple(data["pattern"]), "findings": findings})
