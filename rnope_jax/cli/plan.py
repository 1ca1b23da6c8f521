"""`rnope plan`: what a run would need on TPUs, from any machine."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

#: Columns of the report where it does not go to a terminal.
_WIDTH = 120


@dataclass(frozen=True)
class Options:
    """Compile the training step of a configuration for TPUs, and show what it needs, sends and takes there.

    Fields of the configuration are given as for train.py: --mesh.context 8 --stages.0.batch-size 256.
    """

    config: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CONFIG")]
    """Configuration file, FILE.py or FILE.py:FUNCTION, or a run."""
    topology: str
    """Generation and shape of a slice: v5p:4x4x8, v5e:8x8, v6e:16x16, v4:4x4x4, 7x:4x4x8."""
    slices: int = 1
    """How many such slices, talking over the data-centre network; mesh.data must be a multiple."""
    stage: str = "0"
    """Which stage, by number or name."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print the plan as JSON."""
    largest_batch: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Compile up to three more times to find the largest batch that fits."""


def plan(arguments: Sequence[str]) -> None:
    """Runs `rnope plan` with what the command line gives after it."""
    given, fields = tyro.cli(Options, args=list(arguments), prog="rnope plan", return_unknown_args=True)
    import jax

    # Nothing is computed here, so no accelerator of this machine may be held.
    jax.config.update("jax_platforms", "cpu")

    from rich.console import Console

    from rnope_jax import planning
    from rnope_jax.cli import config_file

    topology = planning.parse(given.topology, given.slices)
    config = config_file.parse("rnope plan", [given.config, *fields])
    index = stage_index([stage.name for stage in config.stages], given.stage)
    made = planning.make_plan(config, index, topology, search=given.largest_batch)
    if given.json:
        json.dump(made.to_dict(), sys.stdout, indent=2)
        print()
    else:
        console = Console(highlight=False)
        # Tables of numbers read badly when they are folded; a file has no width to respect.
        planning.show(made, console if console.is_terminal else Console(highlight=False, width=_WIDTH))


def stage_index(names: Sequence[str], given: str) -> int:
    """The number of the stage that a number or name stands for.

    Raises:
      UserError: if there is none.
    """
    from rnope_jax.errors import UserError

    if given in names:
        return names.index(given)
    if given.isdecimal() and int(given) < len(names):
        return int(given)
    listed = ", ".join(f"{number} ({name})" for number, name in enumerate(names))
    raise UserError(f"--stage {given}: there is no such stage; there are {listed}")
