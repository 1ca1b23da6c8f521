"""The thirteen tasks of RULER (arXiv 2404.06654), as NVIDIA/RULER defines them.

A task has variants. The first is NVIDIA's, with its templates, numbers and tokens kept for the
answer; a budget into which its smallest sample does not fit gets the first variant that does. So
every task exists at 256 tokens too, and no budget makes the generator search in vain.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rnope_jax.data import Tokenizer
from rnope_jax.errors import UserError
from rnope_jax.evaluation.lengths import LengthError
from rnope_jax.evaluation.ruler import lists, niah, questions, tracing
from rnope_jax.evaluation.ruler.fitting import Size, fit
from rnope_jax.evaluation.ruler.niah import Needles
from rnope_jax.evaluation.ruler.samples import Draft, Drawing, Sample, Variant
from rnope_jax.evaluation.ruler.scoring import Score, string_match_all, string_match_part
from rnope_jax.evaluation.ruler.sources import Material

#: Smallest samples that are looked at before a variant is chosen for a budget.
_PROBES = 8
#: Other samples that are tried in the place of one that turns out too long.
_ATTEMPTS = 20
#: Tokens kept for an answer beyond those that a right one takes.
_SPARE = 8


@dataclass(frozen=True)
class Task:
    """A task of RULER."""

    name: str
    category: str
    tokens: int
    """Tokens that NVIDIA keeps for the answer."""
    score: Score
    variants: tuple[Variant, ...]
    draft: Callable[[Drawing, Any], Draft]


def _niah(name: str, category: str, needles: Needles) -> Task:
    return Task(name, category, 128, string_match_all, niah.variants(needles), niah.draft)


def _qa(name: str) -> Task:
    return Task(name, "question answering", 32, string_match_part, questions.variants(name), questions.draft)


TASKS = {
    task.name: task
    for task in (
        _niah("niah_single_1", "retrieval", Needles("noise")),
        _niah("niah_single_2", "retrieval", Needles("essay")),
        _niah("niah_single_3", "retrieval", Needles("essay", value="uuids")),
        _niah("niah_multikey_1", "retrieval", Needles("essay", keys=4)),
        _niah("niah_multikey_2", "retrieval", Needles("needles")),
        _niah("niah_multikey_3", "retrieval", Needles("needles", key="uuids", value="uuids")),
        _niah("niah_multivalue", "retrieval", Needles("essay", values=4)),
        _niah("niah_multiquery", "retrieval", Needles("essay", keys=4, queries=4)),
        Task("vt", "tracing", 30, string_match_all, tracing.VARIANTS, tracing.draft),
        Task("cwe", "aggregation", 120, string_match_all, lists.COMMON_VARIANTS, lists.draft_common),
        Task("fwe", "aggregation", 50, string_match_all, lists.FREQUENT_VARIANTS, lists.draft_frequent),
        _qa("qa_1"),
        _qa("qa_2"),
    )
}


class Generator:
    """Samples of one task for one budget; sample i is always the same, however many are asked for."""

    def __init__(self, task: Task, length: int, tokenizer: Tokenizer, material: Material, seed: int = 0):
        """Chooses the variant.

        Args:
          task: the task.
          length: budget: tokens of the prompt, the start token included, and those kept for the answer.
          tokenizer: with which tokens are counted.
          material: what samples are made of.
          seed: of all draws.

        Raises:
          LengthError: if the budget is too small for any variant.
        """
        self.task, self.length = task, length
        self._tokenizer, self._material, self._seed = tokenizer, material, seed
        smallest = []
        for variant in task.variants:
            self.variant = variant
            smallest.append(max(self._smallest(self._draft(index)) for index in range(_PROBES)))
            if smallest[-1] <= length:
                return
        raise LengthError(
            f"length = {length}: the smallest sample of {task.name} takes up to {min(smallest)} tokens with this "
            "tokenizer; give a greater length, or leave the task out",
            length,
        )

    def samples(self, count: int) -> Iterator[Sample]:
        """The first samples."""
        for index in range(count):
            yield self.sample(index)

    def sample(self, index: int) -> Sample:
        """The sample of this index.

        Raises:
          UserError: if none of those drawn in its place fits.
        """
        for attempt in range(_ATTEMPTS):
            draft = self._draft(index + attempt * 1_000_003)
            size = self._fit(draft, self._guess)
            if size is None:
                continue
            kept = self._kept(draft)
            return Sample(
                index=index,
                input=draft.text.build(size.units, size.letters),
                answer_prefix=draft.answer_prefix,
                outputs=draft.outputs,
                length=1 + size.tokens + kept,
                max_length=self.length,
                tokens_to_generate=kept,
                others=draft.others(size.units),
            )
        raise UserError(
            f"length = {self.length}: {_ATTEMPTS} samples of {self.task.name} in the place of sample {index} are all "
            "too long; give a greater length"
        )

    @cached_property
    def _guess(self) -> int | None:
        """About how many units a sample has. The same for every sample, so that none depends on another."""
        size = self._fit(self._draft(0), None)
        return size and size.units

    def _draft(self, index: int) -> Draft:
        # Text seeds a generator the same on every machine.
        rng = random.Random(f"{self._seed} {self.task.name} {self.length} {index}")
        return self.task.draft(Drawing(rng, index, self.length, self._material, self._count), self.variant)

    def _fit(self, draft: Draft, guess: int | None) -> Size | None:
        def count(text: str) -> int:
            return self._count(text + draft.answer_prefix)

        return fit(draft.text, self.length - 1 - self._kept(draft), count, draft.least, guess)

    def _smallest(self, draft: Draft) -> int:
        return 1 + self._count(draft.text.build(draft.least, 0) + draft.answer_prefix) + self._kept(draft)

    def _kept(self, draft: Draft) -> int:
        """Tokens kept for the answer: NVIDIA's number unless a right answer takes more, or room is scarce."""
        needed = self._count(draft.answer) + _SPARE
        return needed if self.variant.brief else max(self.task.tokens, needed)

    def _count(self, text: str) -> int:
        return len(self._tokenizer.encode(text))
