"""Verdicts on claims, and the page that tells of them."""

import pytest

from rnope_jax.evaluation.study.claims import CLAIMS, Claim, Term, falling, judge
from rnope_jax.evaluation.study.findings import read
from rnope_jax.evaluation.study.report import draw, page
from tests.evaluation.study.results import write_run

TRAINED = 256


def study(root, losses, **more):
    """Runs of variants by name, each with a loss for every seed."""
    runs = [
        write_run(root, variant, seed, loss=loss, **{name: values[variant] for name, values in more.items()})
        for variant, seeds in losses.items()
        for seed, loss in enumerate(seeds)
    ]
    return read(runs)


WORSE = Claim("worse", "somewhere", falling("loss", "nope", "rope"))


@pytest.mark.parametrize(
    ("nope", "words", "margin"),
    [
        ((2.15, 2.2, 2.25), "appears (3 of 3 seeds)", 0.2),
        ((2.1, 2.2, 2.3), "unclear (3 of 3 seeds)", 0.2),
        ((2.01, 2.01, 2.4), "unclear (3 of 3 seeds)", 0.14),
        ((2.1, 1.9, 2.3), "unclear (2 of 3 seeds)", 0.1),
        ((1.9, 1.8, 2.0), "does not appear (0 of 3 seeds)", -0.1),
        ((2.0, 2.0, 2.0), "does not appear (0 of 3 seeds)", 0.0),
        ((2.1,), "appears (1 of 1 seeds, too few to claim anything)", 0.1),
    ],
)
def test_a_claim_appears_if_every_seed_has_its_ordering_clearly(tmp_path, nope, words, margin):
    findings = study(tmp_path, {"rope": [2.0] * len(nope), "nope": nope})
    (verdict,) = judge(findings, TRAINED, [WORSE])
    assert verdict.words == words
    assert verdict.margin == pytest.approx(margin)


def test_orderings_may_have_several_steps(tmp_path):
    findings = study(tmp_path, {"a": [3.0], "b": [2.0], "c": [2.5]})
    wanted = {("a", "c", "b"): True, ("a", "b", "c"): False, ("b", "c", "a"): False}
    for order, holds in wanted.items():
        (verdict,) = judge(findings, TRAINED, [Claim("", "", falling("loss", *order))])
        assert (verdict.margins[0] > 0) is holds


def test_longer_texts_are_looked_at_where_a_claim_is_about_them(tmp_path):
    losses = {"rope": [{256: 2.0, 1024: 9.0}] * 3, "nope": [{256: 3.0, 1024: 4.0}] * 3}
    findings = study(tmp_path, losses)
    longer = Claim("", "", falling("loss", "nope", "rope"), multiple=4)
    far = Claim("", "", falling("loss", "nope", "rope"), multiple=16)
    verdicts = list(judge(findings, TRAINED, [WORSE, longer, far]))
    assert [verdict.words.split(" (")[0] for verdict in verdicts] == ["appears", "does not appear", "cannot be judged"]


@pytest.mark.parametrize(("score", "judged"), [(49.0, False), (50.0, True)])
def test_nothing_is_said_of_retrieval_where_no_variant_can_retrieve(tmp_path, score, judged):
    scores = {"rope": score, "rnope_swa": 10.0}
    findings = study(tmp_path, {"rope": [2.0] * 3, "rnope_swa": [2.0] * 3}, easy=scores, hard=scores)
    (verdict,) = judge(findings, TRAINED, [Claim("", "", falling("ruler", "rope", "rnope_swa"), about_retrieval=True)])
    assert verdict.judged is judged
    assert verdict.words == ("appears (3 of 3 seeds)" if judged else "cannot be judged")
    able = "rope (3 of 3 seeds). These do not: rnope_swa;" if judged else "none. These do not: rope, rnope_swa;"
    assert f"on average: {able}" in page(findings, TRAINED, {}, [])


def test_claims_on_variants_that_were_not_trained_are_left_out(tmp_path):
    assert not list(judge(study(tmp_path, {"rope": [2.0]}), TRAINED))
    asked = {term.variant for claim in CLAIMS for term in claim.terms}
    assert asked == {
        "rope", "qk_norm", "nope", "rnope_10k", "rnope_swa", "rnope_swa_small", "rnope_swa_first", "rnope_swa_log",
    }  # fmt: skip
    within = Claim("", "", (Term("rope", "nope entropy"), Term("rope", "all entropy")))
    (verdict,) = judge(study(tmp_path / "more", {"rope": [2.0]}), TRAINED, [within])
    assert verdict.words == "cannot be judged"


def test_the_page_shows_every_number_and_verdict(tmp_path):
    masses = {"nope": 0.0625, "rope": 0.03125}
    findings = study(tmp_path, {"rope": [2.0, 2.25, 2.5], "nope": [3.0] * 3}, all_needle=masses, easy=masses)
    text = page(findings, TRAINED, {"Command": "`this one`"}, ["figures/a.png"])
    assert "- **Command**: `this one`" in text
    assert "| NoPE alone predicts text worse than RoPE | Table 2 | nope (loss) > rope (loss) at 1x | appears" in text
    assert "| 0.75 +- 0.25 |" in text
    appear = text.partition("**Appears:**\n\n")[2].partition("\n\n")[0]
    assert "- NoPE alone predicts text worse than RoPE (Table 2): nope (loss) 3, rope (loss) 2.25" in appear
    verdicts = "appears 2, unclear 0, does not appear 0, cannot be judged 0"
    assert f"\nVerdicts on 2 findings: {verdicts}.\n" in text
    assert "| rope | 2.250 +- 0.250 | 2.250 +- 0.250 |" in text
    assert "| 1,024 | nope | 0.0000 | 0.0625 |" in text
    assert "| rope | 3 x full + RoPE 10000 |" in text
    assert "![figures/a.png](figures/a.png)" in text
    assert "nan" not in text
    # Lines of a table have as many cells as its head.
    for block in text.split("\n\n"):
        if block.startswith("|"):
            assert len({line.count("|") for line in block.splitlines()}) == 1


def test_figures_are_drawn_of_one_seed_and_of_several(tmp_path):
    for name, seeds in {"one": 1, "three": 3}.items():
        findings = study(tmp_path / name, {variant: [2.0] * seeds for variant in ("rope", "nope", "a", "b", "c")})
        drawn = draw(findings, TRAINED)
        names = ("loss", "retrieval", "needles", "attention-by-length", "attention-by-kind")
        assert list(drawn) == [f"study-{name}.png" for name in names]
        assert all(data.startswith(b"\x89PNG\r\n\x1a\n") for data in drawn.values())
