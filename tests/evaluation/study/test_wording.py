"""What a study teaches is asked in the words in which RULER asks."""

from rnope_jax.data.retrieval import INTRODUCTIONS, Fact
from rnope_jax.evaluation.ruler.niah import NEEDLE, Needles, _templates

FACT = Fact("careful-window", "4719574")


def test_facts_are_ruler_needles():
    assert NEEDLE.format(type_needle_v="numbers", key=FACT.key, value=FACT.value) == FACT.sentence


def test_questions_and_introductions_are_those_of_ruler():
    for many, kind in enumerate(("number", "numbers")):
        template, prefix = _templates(Needles("essay", keys=2, queries=1 + many))
        before, _, after = template.format(type_needle_v=kind, query=FACT.key, context="CONTEXT").partition(
            "\nCONTEXT\n"
        )
        assert before == INTRODUCTIONS[many]
        if not many:
            assert after + prefix.format(type_needle_v=kind, query=FACT.key) == FACT.question
