"""What others have found, as orderings that a study can confirm or not, seed by seed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, stdev

from rnope_jax.evaluation.study.findings import Findings

#: Least score, of 100, at which a variant counts as able to retrieve.
RETRIEVES = 50.0

#: Fewest seeds with which something is claimed.
SEEDS = 3

#: How many standard deviations between seeds a mean margin must exceed. With three seeds another one then keeps the
#: ordering nine times of ten, if margins are normally distributed: Student's t for two degrees of freedom, 1.89, times
#: the square root of 1 + 1/3.
CLEAR = 2.2

#: What can be said of a claim.
VERDICTS = ("appears", "unclear", "does not appear", "cannot be judged")


@dataclass(frozen=True)
class Term:
    """A number of a variant."""

    variant: str
    quantity: str


@dataclass(frozen=True)
class Claim:
    """That numbers fall from term to term, at a multiple of the training length."""

    text: str
    source: str
    terms: tuple[Term, ...]
    """Their numbers fall strictly."""
    multiple: int = 1
    about_retrieval: bool = False
    """Whether it says nothing unless one of its variants can retrieve within the training length."""


@dataclass(frozen=True)
class Verdict:
    """Of one claim."""

    claim: Claim
    margins: dict[int, float]
    """By seed, the least step from term to term, not above 0 where these are in another order; a seed is left out
    where a term was not measured."""
    judged: bool
    """False where nothing can be said: no variant retrieves, or no seed has all terms."""

    @property
    def margin(self) -> float:
        """Mean over seeds."""
        return fmean(self.margins.values())

    @property
    def spread(self) -> float | None:
        """Standard deviation between seeds; None of one seed."""
        return stdev(self.margins.values()) if len(self.margins) > 1 else None

    @property
    def word(self) -> str:
        """The verdict in a word or two."""
        if not self.judged:
            return "cannot be judged"
        holds = [margin > 0 for margin in self.margins.values()]
        if not any(holds):
            return "does not appear"
        # Of three seeds all have an ordering by chance in one case of eight: that alone is not enough.
        return "appears" if all(holds) and self.margin > CLEAR * (self.spread or 0) else "unclear"

    @property
    def words(self) -> str:
        """The verdict and the seeds that it rests on."""
        if not self.judged:
            return self.word
        seeds = len(self.margins)
        few = "" if seeds >= SEEDS else ", too few to claim anything"
        return f"{self.word} ({sum(margin > 0 for margin in self.margins.values())} of {seeds} seeds{few})"


def falling(quantity: str, *variants: str) -> tuple[Term, ...]:
    """One quantity of several variants, the highest first."""
    return tuple(Term(variant, quantity) for variant in variants)


_LATER = "later work"

#: Those of the paper first, then those on which later work disagrees with it or goes on from it.
CLAIMS = (
    Claim("NoPE alone predicts text worse than RoPE", "Table 2", falling("loss", "nope", "rope")),
    Claim("RNoPE-SWA predicts text better than RoPE", "section 4", falling("loss", "rope", "rnope_swa")),
    Claim("NoPE attends most to the fact, RoPE less", "Table 3", falling("all mass needle", "nope", "rope")),
    Claim("RoPE attends more to the fact than QK-Norm", "Table 3", falling("all mass needle", "rope", "qk_norm")),
    Claim("QK-Norm attends less to the beginning than RoPE", "Table 3", falling("all mass begin", "rope", "qk_norm")),
    Claim("QK-Norm spreads its attention more than RoPE", "Table 9", falling("all entropy", "qk_norm", "rope")),
    Claim(
        "on texts 4 times as long, too, QK-Norm spreads its attention more than RoPE",
        "Table 9",
        falling("all entropy", "qk_norm", "rope"),
        multiple=4,
    ),
    Claim(
        "in a hybrid, NoPE layers attend more to the fact than RoPE layers",
        "Table 4",
        (Term("rnope_10k", "nope mass needle"), Term("rnope_10k", "rope mass needle")),
    ),
    Claim(
        "in a hybrid, NoPE layers attend more to the beginning than RoPE layers",
        "Table 4",
        (Term("rnope_10k", "nope mass begin"), Term("rnope_10k", "rope mass begin")),
    ),
    Claim(
        "in a hybrid, RoPE layers attend more to question and answer than NoPE layers",
        "Table 4",
        (Term("rnope_10k", "rope mass qc"), Term("rnope_10k", "nope mass qc")),
    ),
    Claim(
        "NoPE layers of a hybrid attend more to the fact than a model of NoPE layers alone",
        "Tables 3, 4",
        (Term("rnope_10k", "nope mass needle"), Term("nope", "all mass needle")),
    ),
    Claim(
        "RNoPE-SWA retrieves better than RoPE from texts twice as long as those of training",
        "RULER",
        falling("ruler", "rnope_swa", "rope"),
        multiple=2,
        about_retrieval=True,
    ),
    Claim(
        "RNoPE-SWA retrieves better than RoPE from texts 4 times as long",
        "RULER",
        falling("ruler", "rnope_swa", "rope"),
        multiple=4,
        about_retrieval=True,
    ),
    Claim(
        "windows on the RoPE layers of a hybrid help it to retrieve from texts 4 times as long",
        "Table 4",
        falling("ruler", "rnope_swa", "rnope_10k"),
        multiple=4,
        about_retrieval=True,
    ),
    Claim(
        "RoPE predicts the end of texts 4 times as long worse than RNoPE-SWA",
        "section 4",
        falling("late loss", "rope", "rnope_swa"),
        multiple=4,
    ),
    Claim(
        "smaller windows retrieve better from texts 4 times as long",
        _LATER,
        falling("ruler", "rnope_swa_small", "rnope_swa"),
        multiple=4,
        about_retrieval=True,
    ),
    Claim("smaller windows predict text worse", _LATER, falling("loss", "rnope_swa_small", "rnope_swa")),
    Claim(
        "the full layer first retrieves better from texts 4 times as long than the full layer last",
        "SWAN-GPT",
        falling("ruler", "rnope_swa_first", "rnope_swa"),
        multiple=4,
        about_retrieval=True,
    ),
    Claim(
        "log scaling on the full layers helps to retrieve from texts 8 times as long",
        "SWAN-GPT",
        falling("ruler", "rnope_swa_log", "rnope_swa"),
        multiple=8,
        about_retrieval=True,
    ),
    Claim(
        "log scaling on the full layers makes attention to texts 8 times as long less even",
        "SWAN-GPT",
        falling("nope relative entropy", "rnope_swa", "rnope_swa_log"),
        multiple=8,
    ),
)


def judge(findings: Findings, trained: int, claims: Sequence[Claim] = CLAIMS) -> Iterator[Verdict]:
    """Verdicts on the claims whose variants are all in a study.

    Args:
      findings: what was measured.
      trained: tokens of a training row.
      claims: what is judged.
    """
    for claim in claims:
        if not {term.variant for term in claim.terms} <= set(findings.variants):
            continue
        length, margins = claim.multiple * trained, {}
        for seed in findings.seeds:
            values = [findings.value(term.variant, seed, term.quantity, length) for term in claim.terms]
            known = [value for value in values if value is not None]
            if len(known) == len(values):
                margins[seed] = min(b - a for b, a in pairwise(known))
        able = not claim.about_retrieval or any(retrieves(findings, term.variant, trained) for term in claim.terms)
        yield Verdict(claim, margins, able and bool(margins))


def retrieves(findings: Findings, variant: str, length: int) -> bool:
    """Whether a variant finds what it is asked for in texts of this length, by its mean score over seeds."""
    found = findings.mean(variant, "ruler", length)
    return found is not None and found[0] >= RETRIEVES
