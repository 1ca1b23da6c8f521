"""The `rnope` command."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import tyro

from rnope_jax.cli.analyze import analyze
from rnope_jax.cli.checkpoints import checkpoints
from rnope_jax.cli.describe import describe
from rnope_jax.cli.errors import exit_code
from rnope_jax.cli.evaluate import evaluate
from rnope_jax.cli.exchange import export, import_
from rnope_jax.cli.generate import generate
from rnope_jax.cli.launch import launch
from rnope_jax.cli.plan import Options, plan
from rnope_jax.cli.prepare import prepare


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs `rnope SUBCOMMAND ...` and exits."""
    commands: dict[str, Callable[..., Any]] = {
        "prepare": prepare,
        "generate": generate,
        "evaluate": evaluate,
        "analyze": analyze,
        "describe": describe,
        "export": export,
        "import": import_,
        "launch": launch,
        "plan": Options,
        "checkpoints": checkpoints,
    }
    args = list(sys.argv[1:] if arguments is None else arguments)
    description = "Work with RNoPE-SWA models and their data. Training is `python train.py CONFIG`."
    if args[:1] == ["plan"]:  # takes the fields of a configuration beside its own options
        sys.exit(exit_code(lambda: plan(args[1:])))
    sys.exit(
        exit_code(
            lambda: tyro.extras.subcommand_cli_from_dict(commands, prog="rnope", description=description, args=args)
        )
    )


if __name__ == "__main__":
    main()
