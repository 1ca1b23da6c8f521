"""A study as a page of Markdown, with the figures that it shows."""

import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

from rnope_jax.evaluation.analysis.figures import by_kind, by_length
from rnope_jax.evaluation.analysis.probe import SEGMENTS
from rnope_jax.evaluation.study.claims import CLEAR, RETRIEVES, SEEDS, VERDICTS, Claim, Term, Verdict, judge, retrieves
from rnope_jax.evaluation.study.findings import Findings

#: Most heat maps side by side.
_COLUMNS = 4


def page(findings: Findings, trained: int, about: Mapping[str, str], figures: Sequence[str]) -> str:
    """The page.

    Args:
      findings: what was measured.
      trained: tokens of a training row.
      about: what was done, as headings of a list and their texts.
      figures: paths of `draw`'s figures, as seen from the page.
    """
    verdicts = list(judge(findings, trained))
    parts = [
        "# The paper's comparison at small scale",
        "This page, its tables and its figures are written by the program that trained and measured the models.",
        "\n".join(f"- **{name}**: {text}" for name, text in about.items()),
        "## Which findings appear",
        f"A finding appears if every seed has the ordering, by a margin whose mean over seeds is more than {CLEAR:g} "
        "times its standard deviation between them: another seed should then have it, nine times of ten. It is unclear "
        "if only some seeds have it, or by less. Findings on retrieval are not judged where no variant can retrieve "
        f"from the {trained:,} tokens of a training row, of which lengths are multiples. Margins are means over seeds "
        "+- their standard deviation.",
        _summary(findings, verdicts),
        _able(findings, trained),
        *_plainly(findings, trained, verdicts),
        _claims(verdicts),
        "## Variants",
        _variants(findings),
        "## Loss on text that no model has seen",
        "Nats per token over whole texts, and over their last quarter. Means over seeds, +- their standard deviation.",
        _by_length(findings, "loss", "{:.3f}"),
        _by_length(findings, "late loss", "{:.3f}", "last quarter"),
        "## Retrieval",
        "Share of needles that were found, in percent, over all depths; then the mean score of the RULER tasks.",
        _by_length(findings, "needle", "{:.1f}", "needles"),
        _by_length(findings, "ruler", "{:.1f}", "RULER"),
        "## Attention mass, as Tables 3 and 4 of the paper",
        _mass(findings),
        "## Attention entropy in bits, as Table 9 of the paper",
        "In brackets its share of the entropy of even attention to all keys that a query sees.",
        _entropy(findings),
        "## Figures",
        *(f"![{path}]({path})" for path in figures),
    ]
    return "\n\n".join(parts) + "\n"


def _summary(findings: Findings, verdicts: Sequence[Verdict]) -> str:
    """How many findings came to which verdict."""
    counts = Counter(verdict.word for verdict in verdicts)
    listed = ", ".join(f"{word} {counts[word]}" for word in VERDICTS)
    few = "" if len(findings.seeds) >= SEEDS else f" Nothing can be claimed with fewer than {SEEDS} seeds."
    return f"Verdicts on {counts.total()} findings: {listed}.{few}"


def _able(findings: Findings, trained: int) -> str:
    """Which variants have learned to retrieve; where attention of the others goes tells little about retrieval."""
    able = {variant: retrieves(findings, variant, trained) for variant in findings.variants}
    these = ", ".join(f"{variant} ({_able_seeds(findings, variant, trained)})" for variant in able if able[variant])
    others = ", ".join(variant for variant in able if not able[variant])
    rest = f" These do not: {others}; what they attend to says little about retrieval." if others else ""
    return (
        f"From the {trained:,} tokens of a training row these retrieve, that is score {RETRIEVES:g} or more on "
        f"average: {these or 'none'}.{rest}"
    )


def _able_seeds(findings: Findings, variant: str, trained: int) -> str:
    scores = [found.values["ruler", trained] for found in findings.of(variant)]
    return f"{sum(score >= RETRIEVES for score in scores)} of {len(scores)} seeds"


def _plainly(findings: Findings, trained: int, verdicts: Sequence[Verdict]) -> Iterator[str]:
    """The findings by verdict, each with the means that it compares."""
    for word in VERDICTS:
        lines = []
        for verdict in verdicts:
            if verdict.word == word:
                means = [_term_mean(findings, verdict.claim, term, trained) for term in verdict.claim.terms]
                lines.append(f"- {verdict.claim.text} ({verdict.claim.source}): {', '.join(means)}")
        if lines:
            yield f"**{word.capitalize()}:**\n\n" + "\n".join(lines)


def _term_mean(findings: Findings, claim: Claim, term: Term, trained: int) -> str:
    found = findings.mean(term.variant, term.quantity, claim.multiple * trained)
    return f"{term.variant} ({term.quantity}) {'was not measured' if found is None else format(found[0], '.3g')}"


def _claims(verdicts: Sequence[Verdict]) -> str:
    rows = []
    for verdict in verdicts:
        claim = verdict.claim
        order = " > ".join(f"{term.variant} ({term.quantity})" for term in claim.terms)
        margin = "-"
        if verdict.judged:
            margin = f"{verdict.margin:.3g}" + (f" +- {verdict.spread:.2g}" if verdict.spread is not None else "")
        rows.append([claim.text, claim.source, f"{order} at {claim.multiple}x", verdict.words, margin])
    return _table(["finding", "source", "ordering", "here", "margin"], rows)


def _variants(findings: Findings) -> str:
    def kinds(pattern: Sequence[str]) -> Iterator[str]:
        for kind in dict.fromkeys(pattern):
            yield f"{pattern.count(kind)} x {kind}"

    rows = [[variant, ", ".join(kinds(findings.of(variant)[0].analysis.pattern))] for variant in findings.variants]
    return _table(["variant", "layers"], rows)


def _by_length(findings: Findings, quantity: str, form: str, title: str = "variant") -> str:
    def row(variant: str) -> list[str]:
        return [_mean(findings, variant, quantity, length, form.format) for length in findings.lengths]

    return _table(
        [title, *(f"{n:,}" for n in findings.lengths)], [[variant, *row(variant)] for variant in findings.variants]
    )


def _mass(findings: Findings) -> str:
    names = [f"{kind} {part}" for kind in ("all", "NoPE", "RoPE") for part in SEGMENTS]
    rows = []
    for length in findings.lengths:
        for variant in findings.variants:
            cells = [
                _mean(findings, variant, f"{kind} mass {part}", length, "{:.4f}".format, spread=False)
                for kind in ("all", "nope", "rope")
                for part in SEGMENTS
            ]
            rows.append([f"{length:,}", variant, *cells])
    return _table(["context", "variant", *names], rows)


def _entropy(findings: Findings) -> str:
    rows = []
    for variant in findings.variants:
        for group in ("all", "nope", "rope"):
            cells = []
            for length in findings.lengths:
                bits = _mean(findings, variant, f"{group} entropy", length, "{:.2f}".format)
                share = _mean(findings, variant, f"{group} relative entropy", length, "{:.2f}".format, spread=False)
                cells.append("-" if bits == "-" else f"{bits} ({share})")
            if set(cells) != {"-"}:
                rows.append([variant, {"all": "all", "nope": "NoPE", "rope": "RoPE"}[group], *cells])
    return _table(["variant", "layers", *(f"{length:,}" for length in findings.lengths)], rows)


def _mean(
    findings: Findings, variant: str, quantity: str, length: int, form: Callable[[float], str], *, spread: bool = True
) -> str:
    found = findings.mean(variant, quantity, length)
    if found is None:
        return "-"
    mean, deviation = found
    return f"{form(mean)} +- {form(deviation)}" if spread and deviation == deviation else form(mean)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def draw(findings: Findings, trained: int) -> dict[str, bytes]:
    """The figures, by file name."""
    return {
        "study-loss.png": _loss(findings, trained),
        "study-retrieval.png": _retrieval(findings, trained),
        "study-needles.png": _needles(findings),
        **_attention(findings),
    }


def _attention(findings: Findings) -> dict[str, bytes]:
    """As Figures 1 and 2, of the first seed of each variant."""
    analyses = [findings.of(variant)[0].analysis for variant in findings.variants]
    found = analyses[0].findings
    lengths, depth = sorted({at.length for at in found}), found[0].depth
    return {
        "study-attention-by-length.png": by_length(analyses, lengths, depth),
        "study-attention-by-kind.png": by_kind(analyses, lengths[-1], depth),
    }


def _loss(findings: Findings, trained: int) -> bytes:
    """Loss by position, the mean over seeds."""
    figure, axes = plt.subplots(figsize=(7.5, 4.6), layout="constrained")
    for variant in findings.variants:
        runs = np.array([found.positions for found in findings.of(variant)])
        axes.plot(runs[0, :, 0], runs[:, :, 1].mean(0), linewidth=1.3, label=variant)
    axes.axvline(trained, color="#999999", linestyle="--", linewidth=1)
    axes.set(xscale="log", xlabel="position", ylabel="nats per token", title="Loss by position")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
    return _png(figure)


def _retrieval(findings: Findings, trained: int) -> bytes:
    """RULER's score by length, with the spread over seeds."""
    figure, axes = plt.subplots(figsize=(7.5, 4.6), layout="constrained")
    for variant in findings.variants:
        found = [(length, findings.mean(variant, "ruler", length)) for length in findings.lengths]
        known = [(length, *mean) for length, mean in found if mean is not None]
        lengths, means, spreads = (np.array(column) for column in zip(*known, strict=True))
        axes.errorbar(lengths, means, np.nan_to_num(spreads), marker="o", markersize=4, capsize=2, label=variant)
    axes.axvline(trained, color="#999999", linestyle="--", linewidth=1)
    axes.set(xscale="log", xlabel="tokens", ylabel="score", ylim=(-3, 103), title="RULER, retrieval")
    axes.set_xticks(findings.lengths, [f"{length:,}" for length in findings.lengths])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
    return _png(figure)


def _needles(findings: Findings) -> bytes:
    """As Figure 5: needles that were found by depth and length, a map for each variant, the mean over seeds."""
    count = len(findings.variants)
    columns = min(count, _COLUMNS)
    rows = -(-count // columns)
    figure, panels = plt.subplots(
        rows, columns, figsize=(3.6 * columns + 0.8, 3 * rows), layout="constrained", squeeze=False
    )
    for axes, variant in zip(panels.flat, findings.variants, strict=False):
        runs = findings.of(variant)
        lengths, depths = list(runs[0].needles), runs[0].depths
        scores = np.mean([[found.needles[length] for length in lengths] for found in runs], axis=0).T
        image = axes.imshow(scores, cmap="RdYlGn", vmin=0, vmax=100, aspect="auto")
        axes.set_xticks(range(len(lengths)), [f"{length:,}" for length in lengths], rotation=45, fontsize=7)
        axes.set_yticks(range(len(depths)), [f"{depth:g}%" for depth in depths], fontsize=7)
        axes.set_title(variant, fontsize=9)
    for axes in panels.flat[count:]:
        axes.remove()
    figure.colorbar(image, ax=panels.ravel().tolist()[:count], label="needles found, %")
    return _png(figure)


def _png(figure: Any) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    plt.close(figure)
    return file.getvalue()
