"""Every command in the documentation is understood, and is run by a test or listed as not run, with the reason."""

import functools
import importlib.util
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import tyro

from rnope_jax.cli import config_file
from rnope_jax.cli.main import COMMANDS
from tests.documentation.commands import PAGES, Command, configuration_stand_in, documented
from tests.end_to_end.commands import ROOT, rnope_here

#: Commands of other programs, which nothing here can parse.
FOREIGN = {".", "gcloud", "srun", "scontrol", "sbatch", "kubectl", "llama-cli", "hf", "tensorboard"}

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def understood(command: Command) -> None:
    """Parses a command without running it.

    Raises:
      AssertionError, SystemExit, UserError: if a program, an option, a value or a file of it does not exist.
    """
    program, arguments = command.words[0], list(command.arguments)
    if program == "rnope":
        subcommand(command.words[1], arguments)
    elif command.name == "train.py":
        train("train.py", arguments)
    elif command.words[:2] == ("python", "-m"):
        module(command.name, command.options)
    elif program == "python":
        text = (ROOT / command.words[1]).read_text()
        assert all(option in text for option in command.options)
    elif program == "make":
        assert all(f"\n{target}:" in (ROOT / "Makefile").read_text() for target in arguments)
    elif program == "pip":
        extras(arguments)
    else:
        assert program in FOREIGN


def subcommand(name: str, arguments: list[str]) -> None:
    assert name in COMMANDS, f"rnope {name} does not exist"
    function = COMMANDS[name]
    if isinstance(function, type):  # takes fields of a configuration, too
        given, fields = tyro.cli(function, args=arguments, return_unknown_args=True)
        if given.config is not None:
            train(f"rnope {name}", [given.config, *fields])
        return

    @functools.wraps(function)
    def stub(*args, **options):
        """Does nothing."""

    tyro.cli(stub, args=arguments, prog=f"rnope {name}")


def train(program: str, arguments: list[str]) -> None:
    config_file.parse(program, [str(configuration_stand_in(arguments[0])), *arguments[1:]])


def module(name: str, options: list[str]) -> None:
    found = importlib.util.find_spec(name)
    assert found is not None, f"python -m {name}: there is no such module"
    text = Path(found.origin).read_text()
    for option in options:
        assert f'"{option}"' in text or option.removeprefix("--").replace("-", "_") in text, f"{name} {option}"


def extras(arguments: list[str]) -> None:
    assert arguments[0] == "install"
    for given in arguments[1:]:
        for extra in (re.search(r"\[(.*)\]", given) or [None, ""])[1].split(","):
            assert not given.startswith("rnope-jax[") or extra in EXTRAS, given


@pytest.mark.parametrize("page", [page.name for page in PAGES])
def test_every_command_is_understood(page, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    for command in documented():
        if command.page == page:
            try:
                understood(command)
            except (Exception, SystemExit) as error:
                if isinstance(error, SystemExit) and not error.code and "--help" in command.options:
                    continue
                raise AssertionError(f"{command}\n{error}\n{capsys.readouterr().err[-2000:]}") from error


@pytest.mark.parametrize(
    "line",
    [
        "rnope evaluat runs/quickstart",
        "rnope evaluate runs/quickstart --needles",
        "rnope generate runs/quickstart x --max-tokens many",
        "rnope plan configs/command_r7b.py --topology v5p:4x4x4 --mesh.contxt 8",
        "rnope report --out",
        "python train.py configs/quickstart.py --model.widht 3",
        "python train.py configs/quickstart.py --model.d-model 0",
        "python train.py configs/nowhere.py",
        "python train.py configs/paper.py:nothing",
        "python -m benchmarks.nothing",
        "python -m benchmarks.faults --nothing-like-it",
        "make nothing",
        "pip install 'rnope-jax[nothing]'",
        "somebody else",
    ],
)
def test_what_is_wrong_is_not_understood(line, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    with pytest.raises((Exception, SystemExit)):
        understood(Command("here", tuple(shlex.split(line))))


def _table(heading: str) -> dict[str, str]:
    """The rows of the table below a heading of docs/commands.md, the first cell without its backticks."""
    text = (ROOT / "docs" / "commands.md").read_text()
    part = text[text.index(f"\n{heading}\n") :].split("\n#", 2)[1]
    rows = [line.strip("|").split(" | ") for line in part.splitlines() if line.startswith("| `")]
    return {row[0].strip().strip("`"): row[1].strip() for row in rows}


def test_every_command_is_run_by_a_test_or_listed_with_the_reason():
    run, not_run = _table("## What the tests run"), _table("## What they do not run")
    seen = set()
    for command in documented():
        name = command.name
        if name in not_run:
            seen.add(name)
            continue
        assert name in run, f"{command}: not in the tables of docs/commands.md"
        files = re.findall(r"`(tests/[^`]+)`", run[name])
        text = "".join((ROOT / file).read_text() for file in files)
        seen.add(name)
        for option in command.options:
            if f"{name} {option}" in not_run:
                seen.add(f"{name} {option}")
            elif "." not in option:  # fields of a configuration have one parser
                assert option in text, f"{command}: {option} is in none of {files}; see docs/commands.md"
    assert {row for row in {*run, *not_run} if row not in seen} == set(), "no page gives these commands any more"


def test_all_subcommands_are_listed_and_explain_themselves(capsys):
    listed = _table("## Subcommands")
    assert list(listed) == [f"rnope {name}" for name in COMMANDS]
    ended, nothing = rnope_here(capsys, "--help"), rnope_here(capsys)
    assert (ended.code, nothing.code) == (0, 2)
    assert ended.out == nothing.out
    assert re.findall(r"^  (\w+) +[A-Z]", ended.out, re.MULTILINE) == list(COMMANDS)
    for name in COMMANDS:
        ended = rnope_here(capsys, name, "--help")
        assert ended.code == 0
        words = re.sub(r", --no-[\w-]+", "", " ".join(re.sub(r"[│╭╰─╮╯]", " ", ended.out).split()))
        found = re.findall(r" (--[a-z][\w-]*)((?:(?! --[a-z]).)*)", words)
        explained = {option for option, rest in found if re.search(r"[a-z]{3,}", rest)}
        # Of options, not of fields of a configuration that a text mentions, which have a dot.
        assert {option for option, rest in found if not rest.startswith(".")} <= explained, name


def test_completion_knows_all_commands_and_options(capsys):
    for shell in ("bash", "zsh"):
        ended = rnope_here(capsys, "completion", shell)
        assert not ended.code
        assert ended.err == ""
        assert all(name in ended.out for name in COMMANDS)
        assert "--largest-batch" in ended.out
        assert "--per-head" in ended.out
