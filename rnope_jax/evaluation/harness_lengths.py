"""Lengths at which the harness's own generator of RULER's samples comes to an end.

It drops words or lines until a sample fits. Where none does, lm-eval 0.4.13 goes on for ever, deaf
to interrupts, or is left with a list of no words. Its prompts are worded as ours, so their tokens
can be counted beforehand.
"""

import random
from collections.abc import Collection, Sequence

from rnope_jax.data import Tokenizer
from rnope_jax.errors import UserError
from rnope_jax.evaluation.ruler import lists, material, tracing
from rnope_jax.evaluation.ruler.samples import Draft, Drawing

#: Our names of the tasks that need the check; all of them belong to the group and to the tag.
_OURS = {"ruler_vt": "vt", "ruler_cwe": "cwe", "ruler_fwe": "fwe"}
_GROUPS = {"ruler", "longcxt"}

#: The length that the harness takes where none is given.
_DEFAULT = 4096

#: Tokens of the worked example of ruler_vt at most, and those of them kept for its answer, as many as in the task.
_EXAMPLE, _ANSWER = 500, 30
#: Tokens that ruler_cwe keeps for its answer.
_WORDS = 120

#: Samples that are looked at, and what others may take beyond them.
_DRAWN, _MORE = 4, 1.05

#: Removes what stands around the names of a list.
_BARE = str.maketrans("", "", "[],'")


def check_lengths(tokenizer: Tokenizer, tasks: Collection[str], lengths: Sequence[int]) -> None:
    """Checks that the harness can make samples of these lengths.

    Args:
      tokenizer: the model's.
      tasks: names of tasks, groups and tags of the harness.
      lengths: of samples; none stands for the harness's own.

    Raises:
      UserError: naming the first length that is too short for a task.
    """
    for task in _OURS if _GROUPS & set(tasks) else [task for task in _OURS if task in tasks]:
        for length in sorted(set(lengths)) or [_DEFAULT]:
            needed = max(_needed(task, length, tokenizer, seed) for seed in range(_DRAWN))
            if needed * _MORE > length:
                raise UserError(
                    f"--lengths {length}: lm-eval's {task} has no samples so short, as the smallest takes about "
                    f"{needed} tokens with this tokenizer; give greater --lengths, or --ruler {_OURS[task]}, which "
                    "makes short ones too"
                )


def _needed(task: str, length: int, tokenizer: Tokenizer, seed: int) -> int:
    """Tokens of the harness's smallest sample; the right answer, and what is kept for one, count both."""

    def count(text: str) -> int:
        return len(tokenizer.encode(text))

    def answered(draft: Draft, units: int) -> str:
        return f"{draft.text.build(units, 0)}{draft.answer_prefix} {list(draft.outputs)}"

    drawing = Drawing(random.Random(seed), seed, length, material(), count)
    if task == "ruler_fwe":
        draft = lists.draft_frequent(drawing, lists.Frequent())
        return count(draft.text.build(0, 0) + draft.answer_prefix)
    if task == "ruler_cwe":
        return count(answered(lists.draft_common(drawing, lists.Common()), 0)) + _WORDS
    draft = tracing.draft(drawing, tracing.Tracing(example=0))
    example = answered(draft, 5)
    for name in draft.outputs:  # those of the example are shorter
        example = example.replace(name, name[:3])
    if (taken := count(example) + _ANSWER) > _EXAMPLE:
        raise UserError(
            f"--lm-eval {task}: lm-eval makes no samples with this tokenizer, as its worked example takes {taken} "
            f"tokens, of which {_EXAMPLE} are allowed; give --ruler vt instead"
        )
    return count(example.translate(_BARE)) + count(answered(draft, 10)) + _ANSWER
