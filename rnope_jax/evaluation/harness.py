"""Our models in lm-evaluation-harness (lm-eval), as its model class "rnope".

    import lm_eval, rnope_jax.evaluation.harness
    lm_eval.simple_evaluate("rnope", {"pretrained": "runs/quickstart"}, tasks=["hellaswag"])

Tokens, truncation and stops are those of its own backend for Hugging Face models ("hf"), so that a
model and its export get the same scores.
"""

import json
import logging
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs, postprocess_generated_text
from lm_eval.tasks import TaskManager
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window, make_table

from rnope_jax.errors import UserError
from rnope_jax.evaluation.answers import continuations
from rnope_jax.evaluation.batches import BATCH_TOKENS
from rnope_jax.evaluation.likelihood import likelihoods
from rnope_jax.evaluation.records import results_of
from rnope_jax.files import write_text
from rnope_jax.inference import Sampling, TextModel, load
from rnope_jax.inference.layout import ComputeDtype

#: Most tokens of an answer where a task does not say.
_ANSWER = 256

#: A request as the harness has tokenized it: its texts, the tokens of the context, those to be scored.
Scored = tuple[Any, list[int], list[int]]


@register_model("rnope")
class Rnope(TemplateLM):
    """A run or a directory of Hugging Face files, computed by our own inference."""

    def __init__(
        self,
        pretrained: str | Path | TextModel,
        *,
        dtype: ComputeDtype | None = None,
        max_length: int | None = None,
        batch_tokens: int = BATCH_TOKENS,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        device: str | None = None,
    ):
        """Loads a model.

        Args:
          pretrained: its directory, or the model.
          dtype: type of weights, activations and cache; None: the model's.
          max_length: most tokens of a row; None: the longest row of training. What is longer is cut on the left.
          batch_tokens: most tokens that are computed together.
          batch_size: not used, as the number of rows follows from `batch_tokens`; the harness always gives one.
          max_batch_size: likewise.
          device: not used: JAX has chosen it.
        """
        super().__init__()
        self._model = pretrained if isinstance(pretrained, TextModel) else load(Path(pretrained), dtype)
        self._bos = self._model.tokenizer.bos
        self.max_length = max_length or self._model.context
        self._batch_tokens = batch_tokens

    @property
    def eot_token_id(self) -> int:
        """The end token."""
        return self._model.tokenizer.eos_id

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text: the start token."""
        return self._model.tokenizer.bos_id

    @property
    def tokenizer_name(self) -> str:
        """What the harness keeps prompts under: they depend on the tokenizer."""
        return self._model.tokenizer.backend.to_str()

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Tokens of a text, after the start token unless that is not wanted."""
        if add_special_tokens is False:
            return self._model.tokenizer.encode(string)
        # A prompt that holds the start token already gets no second one.
        return [self.prefix_token_id, *self._model.tokenizer.encode(string.removeprefix(self._bos))]

    def loglikelihood_rolling(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of whole texts, in windows of at most `max_length` tokens."""
        parts: list[Scored] = []
        owners = []
        for number, request in enumerate(requests):
            # The start token is both the prefix and the first token that is scored, as in "hf".
            windows = get_rolling_token_windows(
                self.tok_encode(request.args[0]), self.prefix_token_id, self.max_length, context_len=1
            )
            for window in windows:
                parts.append((None, *make_disjoint_window(window)))
                owners.append(number)
        totals = [0.0] * len(requests)
        for owner, (score, _) in zip(owners, self._loglikelihood_tokens(parts), strict=True):
            totals[owner] += score
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def _loglikelihood_tokens(self, requests: Sequence[Scored], **_: Any) -> list[tuple[float, bool]]:
        results: list[tuple[float, bool]] = [(0.0, True)] * len(requests)
        scored = [number for number, (*_, wanted) in enumerate(requests) if wanted]
        for number in scored:
            if (count := len(requests[number][2])) > self.max_length:
                raise UserError(
                    f"max_length = {self.max_length}: a continuation of {count} tokens is to be scored; "
                    "give a greater one (--lengths)"
                )
        rows = [(requests[number][1] + requests[number][2])[-self.max_length - 1 :] for number in scored]
        model = self._model
        for places, found in likelihoods(model.config, model.params, rows, batch_tokens=self._batch_tokens):
            for place, own in zip(places, found, strict=True):
                texts, _context, ending = requests[scored[place]]
                result = -float(own.loss[-len(ending) :].sum()), bool(own.greedy[-len(ending) :].all())
                results[scored[place]] = result
                if texts is not None:
                    self.cache_hook.add_partial("loglikelihood", texts, result)
        return results

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """Continuations of prompts, which are cut on the left where they leave too little room."""
        results = [""] * len(requests)
        for kwargs, numbers in _by_settings(requests):
            most, until = kwargs["max_gen_toks"], [*kwargs["until"], self._model.tokenizer.eos]
            room = self.max_length - most
            if room < 1:
                raise UserError(
                    f"max_length = {self.max_length}: leaves no room for a prompt before {most} tokens; "
                    "give a greater one (--lengths)"
                )
            prompts = [self.tok_encode(requests[number].args[0])[-room:] for number in numbers]
            for batch in continuations(
                self._model,
                prompts,
                [most] * len(prompts),
                batch_tokens=self._batch_tokens,
                until=until,
                sampling=_sampling(kwargs),
            ):
                for place, text in batch.items():
                    answer = postprocess_generated_text(text, until, None)
                    results[numbers[place]] = answer
                    self.cache_hook.add_partial("generate_until", requests[numbers[place]].args, answer)
        return results


def _by_settings(requests: Sequence[Instance]) -> Iterator[tuple[dict[str, Any], list[int]]]:
    """Settings of generation, and the numbers of the requests that have them."""
    groups: dict[str, list[int]] = {}
    for number, request in enumerate(requests):
        groups.setdefault(json.dumps(request.args[1], sort_keys=True), []).append(number)
    for key, numbers in groups.items():
        kwargs = dict(normalize_gen_kwargs(json.loads(key), _ANSWER))
        until = kwargs.get("until") or []
        yield kwargs | {"until": [until] if isinstance(until, str) else until}, numbers


def _sampling(kwargs: dict[str, Any]) -> Sampling:
    if not kwargs["do_sample"]:
        return Sampling()
    return Sampling(
        temperature=kwargs.get("temperature", 1.0), top_k=kwargs.get("top_k") or None, top_p=kwargs.get("top_p")
    )


def task_manager(
    directory: Path, tasks: Sequence[str], include_path: Path | None = None, lengths: Sequence[int] = ()
) -> TaskManager:
    """What finds tasks, once it is known that they exist; no model is needed for that.

    Args:
      directory: a run, or Hugging Face files: with its tokenizer the tasks of `ruler` count.
      tasks: names of tasks, groups and tags.
      include_path: directory with more tasks.
      lengths: lengths of tasks that have a choice of them (the group `ruler`).

    Raises:
      UserError: if there is no such task.
    """
    if include_path is not None and not include_path.is_dir():
        raise UserError(f"--include-path {include_path}: is not a directory")
    own = directory / "tokenizer"
    metadata: dict[str, Any] = {"tokenizer": str(own if own.is_dir() else directory)}
    if lengths:
        metadata["max_seq_lengths"] = sorted(set(lengths))
    logging.getLogger("lm_eval").setLevel(logging.WARNING)
    manager = TaskManager(include_path=include_path, metadata=metadata)
    for task in tasks:
        if not manager.match_tasks([task]):
            raise UserError(
                f"--lm-eval {task}: lm-eval knows no such task, group or tag; tasks of your own are found with "
                "--include-path DIR"
            )
    return manager


def evaluate(
    model: TextModel,
    tasks: Sequence[str],
    manager: TaskManager,
    *,
    out: Path,
    num_fewshot: int | None = None,
    limit: int | None = None,
    unsafe_code: bool = False,
    lengths: Sequence[int] = (),
    batch_tokens: int = BATCH_TOKENS,
) -> dict[str, Any]:
    """Runs tasks of the harness, prints its table and writes what it found.

    Answers are kept as they come, in a file from which the same command goes on.

    Args:
      model: the model.
      tasks: names of tasks, groups and tags.
      manager: from `task_manager`.
      out: directory for results.
      num_fewshot: examples in prompts; None: each task's own number.
      limit: most samples of each task.
      unsafe_code: whether tasks may run code that the model has written.
      lengths: the longest of these and of the rows of training is the most that a row may have.
      batch_tokens: most tokens that are computed together.

    Returns:
      The results of the harness.

    Raises:
      UserError: if a task's data cannot be had, or it would run the model's code and may not.
    """
    # One more: the harness does not count the start token.
    longest = max([model.context, *(length + 1 for length in lengths)])
    wrapped = Rnope(model, max_length=longest, batch_tokens=batch_tokens)
    if unsafe_code:
        os.environ["HF_ALLOW_CODE_EVAL"] = "1"  # asked for by the metric as well
    with results_of(model, out):
        kept = out / "lm_eval"
        kept.mkdir(exist_ok=True)
        try:
            found = simple_evaluate(
                wrapped,
                tasks=list(tasks),
                num_fewshot=num_fewshot,
                limit=limit,
                task_manager=manager,
                confirm_run_unsafe_code=unsafe_code,
                use_cache=str(kept / f"answers-{longest}"),
            )
        except (OSError, ImportError) as error:  # of the network, among others
            raise UserError(f"--lm-eval {' '.join(tasks)}: {type(error).__name__}: {error}") from error
        except (ValueError, LookupError, ZeroDivisionError) as error:
            if (message := _explained(error)) is None:
                raise
            raise UserError(f"--lm-eval {' '.join(tasks)}: {message}") from error
        finally:
            if (database := wrapped.cache_hook.dbdict) is not None:
                database.close()
        assert found is not None
        for name, rows in found.pop("samples", {}).items():
            lines = (json.dumps(_plain(row), default=str, ensure_ascii=False) + "\n" for row in rows)
            write_text(kept / f"{name}.jsonl", "".join(lines))
        write_text(out / "lm_eval.json", json.dumps(_plain(found), indent=2, default=str) + "\n")
    print(make_table(found))
    if found.get("groups"):
        print(make_table(found, "groups"))
    return found


def _explained(error: Exception) -> str | None:
    """What a user is told of an error of the harness; None where it is not the user's."""
    said = str(error)
    if "confirm_run_unsafe_code" in said or "HF_ALLOW_CODE_EVAL" in said:
        return "runs code that the model has written; --confirm-run-unsafe-code allows it"
    if "max_seq_length" in said:  # no sample of `ruler` is so short
        return f"{said} (--lengths)"
    if isinstance(error, ZeroDivisionError):  # by the number of words of a list that was cut down to none
        return "a sample without an answer; its length may be too short (--lengths)"
    if "punkt" in said:  # of nltk, which splits essays into sentences
        return f"{said.strip()} (NLTK_DATA)"
    return None


def _plain(found: Any) -> Any:
    """Results without what JSON cannot hold."""
    if isinstance(found, dict):
        return {str(key): _plain(value) for key, value in found.items()}
    if isinstance(found, (list, tuple)):
        return [_plain(value) for value in found]
    if isinstance(found, float) and not math.isfinite(found):
        return str(found)
    return found
