"""`rnope completion`: what lets a shell complete commands and options."""

from typing import Annotated, Literal

from tyro.conf import Positional, arg


def completion(shell: Annotated[Positional[Literal["bash", "zsh", "tcsh"]], arg(metavar="{bash,zsh,tcsh}")], /) -> None:
    """Print what lets a shell complete `rnope` with the Tab key.

    Write it where your shell looks, and open a new one:

        rnope completion bash > ~/.local/share/bash-completion/completions/rnope
        rnope completion zsh > ~/.zfunc/_rnope      (a directory in fpath, before compinit)

    Args:
      shell: the shell.
    """
    from rnope_jax.cli.main import subcommand

    subcommand(["--tyro-print-completion", shell])
