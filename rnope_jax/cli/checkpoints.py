"""`rnope checkpoints`: what a run has saved."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

if TYPE_CHECKING:
    from rnope_jax.checkpoint.inventory import Plan


def checkpoints(
    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")],
    /,
    *,
    verify: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    prune: Annotated[int | None, tyro.conf.arg(metavar="KEEP")] = None,
    yes: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
) -> int:
    """List the checkpoints of a run; verify them, or remove old ones.

    Args:
      run: run directory, such as runs/quickstart.
      verify: read all files and compare them with what was written; the exit code is 1 if any is damaged.
      prune: tell which checkpoints would go if the newest KEEP stay; the newest good one always stays.
      yes: with --prune, remove them.
    """
    from rnope_jax.checkpoint import inventory
    from rnope_jax.errors import UserError
    from rnope_jax.run import Run

    if yes and prune is None:
        raise UserError("--yes confirms --prune KEEP; give both")
    if verify and prune is not None:
        raise UserError("--verify and --prune are two commands; give one of them")
    if prune is not None:
        made = (inventory.prune if yes else inventory.plan)(Run(run), prune)
        _tell(made, yes)
        return 0
    damaged = False
    print(f"{'step':>12}  {'written (UTC)':19}  {'MB':>10}  {'stage':12}  condition")
    for entry in inventory.inventory(Run(run), verify=verify):
        damaged |= entry.condition == inventory.DAMAGED
        condition = entry.condition + (f": {entry.detail}" if entry.detail else "")
        megabytes = f"{entry.bytes / 1e6:,.1f}"
        print(f"{entry.name:>12}  {entry.written:19}  {megabytes:>10}  {entry.stage:12}  {condition}", flush=True)
    if not verify:
        print("complete: all files have their sizes; --verify reads them")
    return int(verify and damaged)


def _tell(made: "Plan", done: bool) -> None:
    if not made.remove:
        print("nothing to remove")
        return
    steps = ", ".join(map(str, made.remove))
    print(
        f"{'removed' if done else 'would remove'} {steps} ({made.bytes / 1e6:,.1f} MB); {made.good} is whole and stays"
    )
    if not done:
        print("nothing was removed; give --yes to do it")
