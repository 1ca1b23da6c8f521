"""`rnope report`: what a run has recorded, as one HTML page."""

from pathlib import Path
from typing import Annotated

from tyro.conf import FlagCreatePairsOff, Positional, arg


def report(
    runs: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN [RUN ...]")],
    /,
    *,
    out: Annotated[Path | None, arg(metavar="FILE.html")] = None,
    verify: Annotated[bool, FlagCreatePairsOff] = False,
) -> None:
    """Write one HTML page about a run, or about several side by side; it opens anywhere and fetches nothing.

    Curves, memory, data, evaluations, attention, samples, checkpoints and configuration, as far as they are there;
    of what is missing the page tells the command that makes it. A run that is going on can be looked at too.

    Args:
      runs: run directories, such as runs/quickstart.
      out: the page to write; by default RUN/report.html, and with several runs FIRST/comparison.html.
      verify: read all files of all checkpoints to tell their condition; otherwise their sizes are compared.
    """
    from datetime import UTC, datetime

    from rnope_jax.errors import UserError
    from rnope_jax.evaluation.outcome import check_place
    from rnope_jax.files import write_text
    from rnope_jax.report import page, read

    if not runs:
        raise UserError("there is no run: give at least one, such as runs/quickstart")
    target = out or runs[0] / ("report.html" if len(runs) == 1 else "comparison.html")
    if target.is_dir():
        raise UserError(f"--out {target}: is a directory; give the name of a file, such as {target / 'report.html'}")
    records = read(runs, verify=verify)
    check_place(target.parent)
    made = page(records, datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"))
    target.parent.mkdir(parents=True, exist_ok=True)
    write_text(target, made)
    print(f"done: {target} ({len(made) / 1024:,.0f} KiB); open it in a browser")
