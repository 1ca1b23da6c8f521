"""Probes: texts of an exact length in which every token has a known part."""

import random

import numpy as np
import pytest

from rnope_jax.errors import UserError
from rnope_jax.evaluation.analysis.probe import BEGIN, CONTEXT, NEEDLE, QC, SEGMENTS, probes
from tests.evaluation.analysis.texts import TEXT, haystack
from tests.interop.models import small_tokenizer

LENGTHS = (260, 301, 1024, 2500)  # the text is shorter than the last


@pytest.fixture(scope="module")
def hay():
    return haystack()


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("depth", [0.0, 0.37, 0.5, 1.0])
def test_every_token_has_its_part(hay, length, depth):
    tokenizer = small_tokenizer()
    probe = hay.probe(length, depth, random.Random(0))
    assert probe.tokens.shape == probe.segments.shape == (length,)
    assert probe.tokens[0] == tokenizer.bos_id
    text = {part: tokenizer.decode(probe.tokens[probe.segments == part].tolist()) for part in range(len(SEGMENTS))}
    assert text[NEEDLE] == f"{probe.fact.sentence}\n"
    assert text[QC] == f"\n{probe.fact.question}{probe.fact.answer}"
    assert probe.questions == (probe.segments == QC).sum()
    # Runs of parts, in order: the fact may stand right after the beginning, or right before the question.
    runs = [
        int(part) for part, before in zip(probe.segments, [-1, *probe.segments[:-1]], strict=True) if part != before
    ]
    assert runs in ([BEGIN, CONTEXT, NEEDLE, CONTEXT, QC], [BEGIN, NEEDLE, CONTEXT, QC], [BEGIN, CONTEXT, NEEDLE, QC])
    assert (probe.segments == BEGIN).sum() == 10
    assert (probe.segments[:10] == BEGIN).all()


def test_the_fact_stands_between_two_pieces_near_its_depth(hay):
    length = 1024
    for depth in np.linspace(0.05, 0.95, 7):
        probe = hay.probe(length, depth, random.Random(1))
        start = int(np.flatnonzero(probe.segments == NEEDLE)[0])
        room = length - 1 - (probe.segments == NEEDLE).sum() - probe.questions
        longest = np.diff([*hay.starts, len(hay.tokens)]).max()
        assert abs(start - 1 - depth * room) <= longest / 2 + 1
        before = small_tokenizer().decode(probe.tokens[:start].tolist())
        assert before.endswith((".", "!", "\n"))


def test_the_text_around_the_fact_is_that_of_the_haystack(hay):
    probe = hay.probe(600, 0.5, random.Random(2))
    around = probe.tokens[1:][(probe.segments[1:] == BEGIN) | (probe.segments[1:] == CONTEXT)]
    assert small_tokenizer().decode(around.tolist()) in TEXT * 4


def test_the_same_seed_gives_the_same_probes_whatever_else_is_asked(hay):
    few = probes(hay, [300], [0.5], 2, seed=3)
    many = probes(hay, [260, 300], [0.1, 0.5], 3, seed=3)
    for ours, theirs in zip(few[300, 0.5], many[300, 0.5], strict=False):
        np.testing.assert_array_equal(ours.tokens, theirs.tokens)
    assert len({probe.fact for batch in many.values() for probe in batch}) == 12
    other = probes(hay, [300], [0.5], 2, seed=4)
    assert few[300, 0.5][0].fact != other[300, 0.5][0].fact


def test_a_length_without_room_is_refused_with_the_least_that_would_do(hay):
    with pytest.raises(UserError, match=r"length 40: .* give at least (\d+)") as refused:
        hay.probe(40, 0.5, random.Random(0))
    least = int(str(refused.value).split()[-1])
    assert len(hay.probe(least, 0.5, random.Random(0)).tokens) == least
