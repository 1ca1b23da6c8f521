"""Whether a run goes on with the data that it began with.

A fingerprint says of every store that a run reads how many documents and tokens it has and what its files
hash to, and what the tokenizer hashes to. It is written into every checkpoint; how the tokens become batches
is in the configuration, which is compared as well.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rnope_jax.errors import UserError
from rnope_jax.schema import differences

#: Differences that a message names.
_NAMED = 6

#: Characters of a hash that a message shows.
_SHOWN = 12


def check_same(
    saved: str | None, now: Mapping[str, Any], step: int, *, accept: bool, report: Callable[[str], None]
) -> None:
    """Compares the data of a checkpoint with those that are there now.

    Args:
      saved: the fingerprint in the checkpoint, as JSON; None where it has none.
      now: the fingerprint of what is there.
      step: of the checkpoint.
      accept: whether to go on with other data, and only tell of it.
      report: told of differences that are accepted.

    Raises:
      UserError: if they differ.
    """
    if saved is None:
        report(f"checkpoint {step} does not say what it was trained on; whether that has changed is not known")
        return
    changed = list(_changes(json.loads(saved), json.loads(json.dumps(now))))
    if not changed:
        return
    lines = [f"  {line}" for line in changed[:_NAMED]]
    lines += [f"  and {len(changed) - _NAMED} more"] if len(changed) > _NAMED else []
    text = f"the data are not those that checkpoint {step} was trained on:\n" + "\n".join(lines)
    if not accept:
        raise UserError(
            f"{text}\nBring the old data back, or go on with the new: --checkpoint.accept-changed-data True. "
            "No checkpoint was changed."
        )
    report(f"{text}\nthey are accepted")


def _changes(old: Any, new: Any) -> Iterator[str]:
    """What differs, in words: counts first, hashes after them."""
    found = sorted(differences(old, new), key=lambda change: isinstance(change[1] or change[2], str))
    for path, before, after in found:
        yield f"{path}: {_shown(before)} then, {_shown(after)} now"


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, str):
        return value[:_SHOWN]
    return f"{value:,}" if isinstance(value, int) else str(value)
