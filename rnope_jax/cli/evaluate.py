"""`rnope evaluate`: loss by position, needles, RULER, and the tasks of lm-evaluation-harness."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, Positional, arg

from rnope_jax.evaluation.settings import Settings


def evaluate(
    run: Annotated[Positional[Path], arg(metavar="RUN")],
    /,
    *,
    settings: Annotated[Settings, OmitArgPrefixes, FlagCreatePairsOff],
    lm_eval: tuple[str, ...] = (),
    include_path: Path | None = None,
    num_fewshot: int | None = None,
    limit: int | None = None,
    confirm_run_unsafe_code: Annotated[bool, FlagCreatePairsOff] = False,
    out: Path | None = None,
    dtype: Literal["float32", "bfloat16"] | None = None,
    trust_checkpoint: Annotated[bool, FlagCreatePairsOff] = False,
) -> None:
    """Evaluate the newest whole checkpoint of a run, or a directory of Hugging Face files.

    Without --loss-by-position, --needle, --ruler and --lm-eval, the first three are done. An
    evaluation that was interrupted goes on when the same command is given again.

    Args:
      run: run directory, such as runs/quickstart, or Hugging Face files.
      settings: what is evaluated.
      lm_eval: tasks of lm-evaluation-harness, which is then needed: pip install 'rnope-jax[eval]'.
      include_path: directory with more tasks for it, as YAML.
      num_fewshot: examples in its prompts; None: each task's own number.
      limit: most samples of each of its tasks; the scores mean little then.
      confirm_run_unsafe_code: let its tasks run code that the model has written, as mbpp does.
      out: directory for results; None: evaluations/step-STEP in RUN, and figures/ there for figures.
      dtype: type of weights, activations and cache; None: the model's.
      trust_checkpoint: do not verify the files of the checkpoint before they are read.
    """
    from rnope_jax.errors import UserError
    from rnope_jax.evaluation import suite
    from rnope_jax.inference import load

    if not lm_eval:
        for name, given in (("include-path", include_path), ("num-fewshot", num_fewshot), ("limit", limit)):
            if given is not None:
                raise UserError(f"--{name} belongs to --lm-eval; name its tasks too: --lm-eval hellaswag")
        if settings.nothing:
            settings = replace(settings, loss_by_position=True, needle=True, ruler=())
    settings.check()
    if lm_eval:
        try:
            from rnope_jax.evaluation import harness, harness_lengths
        except ModuleNotFoundError as error:
            raise UserError(f"--lm-eval: {error.name} is not installed; pip install 'rnope-jax[eval]'") from error
        manager = harness.task_manager(run, lm_eval, include_path, settings.lengths)
    model = load(run, dtype, trust_checkpoint=trust_checkpoint)
    if lm_eval:
        harness_lengths.check_lengths(model.tokenizer, manager.match_tasks(list(lm_eval)), settings.lengths)
    written = suite.evaluate(model, run, settings, out=out)
    if lm_eval:
        harness.evaluate(
            model,
            lm_eval,
            manager,
            out=written,
            num_fewshot=num_fewshot,
            limit=limit,
            unsafe_code=confirm_run_unsafe_code,
            lengths=settings.lengths,
            batch_tokens=settings.batch_tokens,
        )
    print(f"done: {written}")
