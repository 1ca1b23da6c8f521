"""`rnope doctor`: whether this machine is ready, and what a run would meet on it."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

if TYPE_CHECKING:
    from rnope_jax.doctor import Finding

#: Columns of the table where it does not go to a terminal.
_WIDTH = 140

_MARKS = {"fine": "[green]fine[/]", "note": "[yellow]note[/]", "stop": "[red]STOP[/]"}


@dataclass(frozen=True)
class Options:
    """Look at this machine as a run would meet it: devices, versions, kernels, memory, disk, variables.

    With a configuration, everything that train.py checks before it begins is checked too, and the attention backend
    of each kind of layer is told. Fields are given as for train.py: --run-dir runs/mine --mesh.fsdp 4. Nothing is
    left behind. The exit code is 0 if nothing would stop the run, 1 if something would.
    """

    config: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="[CONFIG]")] = None
    """Configuration file, FILE.py or FILE.py:FUNCTION, or a run; none looks at the machine alone."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print the findings as JSON."""


def doctor(arguments: Sequence[str]) -> int:
    """Runs `rnope doctor` with what the command line gives after it."""
    from rnope_jax import xla_flags
    from rnope_jax.errors import UserError

    if arguments and arguments[0].startswith("-") and (own := [a for a in arguments if a[:2] == "--" and "." in a]):
        raise UserError(f"{own[0]}: fields belong to a configuration; name it first: rnope doctor CONFIG {own[0]} ...")
    given, fields = tyro.cli(Options, args=list(arguments), prog="rnope doctor", return_unknown_args=True)
    environment = dict(os.environ)
    xla_flags.set_environment()  # before jax is imported, as train.py does

    from rnope_jax.cli import config_file
    from rnope_jax.doctor import examine

    config = None if given.config is None else config_file.parse("rnope doctor", [given.config, *fields])
    findings = list(examine(config, environment))
    stops = sum(found.state == "stop" for found in findings)
    if given.json:
        print(json.dumps({"fine": not stops, "findings": [asdict(found) for found in findings]}, indent=2))
    else:
        _show(findings)
    return int(stops > 0)


def _show(findings: "Sequence[Finding]") -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDTH)  # a file has no width to respect
    table = Table(show_header=False, pad_edge=False, box=None)
    for _ in range(3):
        table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    section = None
    for found in findings:
        if section is not None and found.section != section:
            table.add_row()
        shown = "" if found.section == section else f"[bold]{found.section}[/]"
        value = escape(found.value) + (f"\n[dim]->[/] {escape(found.remedy)}" if found.remedy else "")
        table.add_row(shown, escape(found.name), _MARKS[found.state], value)
        section = found.section
    console.print(table)
    stops = [found for found in findings if found.state == "stop"]
    notes = sum(found.state == "note" for found in findings)
    console.print()
    if stops:
        console.print(f"{len(stops)} would stop a run: {', '.join(escape(found.name) for found in stops)}")
    else:
        console.print(f"nothing would stop a run; {notes} notes")
