"""The `rnope` command."""

import inspect
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

import tyro

from rnope_jax.cli import doctor as doctors
from rnope_jax.cli import plan as plans
from rnope_jax.cli.analyze import analyze
from rnope_jax.cli.checkpoints import checkpoints
from rnope_jax.cli.completion import completion
from rnope_jax.cli.describe import describe
from rnope_jax.cli.errors import exit_code
from rnope_jax.cli.evaluate import evaluate
from rnope_jax.cli.exchange import export, import_
from rnope_jax.cli.generate import generate
from rnope_jax.cli.launch import launch
from rnope_jax.cli.prepare import prepare
from rnope_jax.cli.report import report

#: Subcommands by name, in the order in which a person meets them. Those that are classes hold options and take the
#: fields of a configuration beside them.
COMMANDS: dict[str, Callable[..., Any]] = {
    "doctor": doctors.Options,
    "describe": describe,
    "plan": plans.Options,
    "prepare": prepare,
    "launch": launch,
    "checkpoints": checkpoints,
    "generate": generate,
    "evaluate": evaluate,
    "analyze": analyze,
    "report": report,
    "export": export,
    "import": import_,
    "completion": completion,
}

#: Columns of the overview.
_WIDTH = 100

#: What runs those that take fields of a configuration.
_WITH_FIELDS: dict[str, Callable[[Sequence[str]], int | None]] = {"doctor": doctors.doctor, "plan": plans.plan}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs `rnope SUBCOMMAND ...` and exits."""
    args = list(sys.argv[1:] if arguments is None else arguments)
    if not args or args[0] in ("-h", "--help"):
        print(overview())
        sys.exit(0 if args else 2)
    if args[0] in _WITH_FIELDS:
        sys.exit(exit_code(lambda: _WITH_FIELDS[args[0]](args[1:])))
    sys.exit(exit_code(lambda: subcommand(args)))


def overview() -> str:
    """What there is: a line for each subcommand."""
    width = max(map(len, COMMANDS)) + 2
    lines = [
        textwrap.fill(
            (inspect.getdoc(command) or "").splitlines()[0],
            _WIDTH,
            initial_indent=f"  {name:{width}}",
            subsequent_indent=" " * (width + 2),
        )
        for name, command in COMMANDS.items()
    ]
    return "\n".join(
        [
            "usage: rnope COMMAND [...]",
            "",
            "Work with RNoPE-SWA models and their data. Training is `python train.py CONFIG`.",
            "",
            *lines,
            "",
            "`rnope COMMAND --help` tells the options of one; docs/first_run.md is where to begin.",
        ]
    )


def subcommand(args: Sequence[str]) -> Any:
    """Runs the subcommand that the first argument names; exits after printing help or on a mistake."""
    return tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="rnope", args=args)


if __name__ == "__main__":
    main()
