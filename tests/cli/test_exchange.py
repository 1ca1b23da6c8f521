"""`rnope import`, `rnope export` and `train.py RUN` as a user types them."""

import json
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cli.test_errors import assert_one_message
from tests.end_to_end.commands import finish, rnope_here, start, train_here
from tests.interop.models import make_run, model
from tests.training.runs import tree_hash


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Hugging Face files. Only to be read."""
    from rnope_jax import interop

    directory = tmp_path_factory.mktemp("files")
    run = make_run(directory / "run", model(num_layers=2))
    interop.export(run.path, directory / "files", dtype="float32", check=False, report=lambda line: None)
    return directory / "files"


@pytest.fixture
def run(files, tmp_path, capsys, monkeypatch):
    """An imported run at tmp_path / "run"."""
    monkeypatch.chdir(tmp_path)
    ended = rnope_here(capsys, "import", files, "run")
    assert (ended.code, ended.err) == (0, "")
    return tmp_path / "run"


def names(path: Path) -> set[str]:
    return {entry.name for entry in path.iterdir()}


def test_help_fits_and_names_what_is_given(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    for command, words in {
        "": ["generate", "export", "import", "Training is `python train.py CONFIG`"],
        "export": ["RUN", "OUT", "--for {transformers,vllm,llama.cpp}", "--gguf", "--dtype", "--step N", "--no-verify"],
        "import": ["DIR", "RUN", "--window-convention {transformers,vllm}"],
    }.items():
        ended = rnope_here(capsys, *([command] if command else []), "--help")
        assert (ended.code, ended.err) == (0, "")
        for word in words:
            assert word in ended.out, (command, word)
        assert "{None}" not in ended.out
        assert max(map(len, ended.out.splitlines())) <= 100


def test_the_command_that_import_tells_can_be_typed(files, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ended = rnope_here(capsys, "import", files, "a run")
    assert shlex.split(ended.out.splitlines()[-1])[:3] == ["python", "train.py", "a run"]
    bare = shutil.copytree(files, tmp_path / "bare")
    (bare / "tokenizer.json").unlink()
    (bare / "tokenizer_config.json").unlink()
    assert "--data.tokenizer TOKENIZER" in rnope_here(capsys, "import", "bare", "other").out


def test_from_import_to_training_to_export(run, text, tmp_path, capsys):
    """By the real commands: trained in the run, moved, exported."""
    stage = {"steps": 2, "sequence-length": 16, "schedule.warmup-steps": 0}
    options = [word for name, value in stage.items() for word in (f"--stages.0.{name}", value)]
    command = ["train.py", f"{run}/", "--data.corpus", text, *options, "--evaluation.rows", 8]
    ended = finish(start(tmp_path / "cache", *command))
    assert (ended.code, ended.err) == (0, "")
    assert f"starting from the parameters of {run}" in ended.out
    moved = run.rename(tmp_path / "moved")
    ended = rnope_here(capsys, "export", "moved/", "moved/out", "--no-verify")
    assert (ended.code, ended.err) == (0, "")
    assert json.loads((moved / "out" / "config.json").read_text())["max_position_embeddings"] == 32
    ended = rnope_here(capsys, "generate", "moved", "the river", "--max-tokens", 2)
    assert (ended.code, ended.err) == (0, "")


def test_a_run_that_was_moved_resumes(run, text, tmp_path):
    """Up to the look into it; what training does then is in interop/test_flows.py."""
    from rnope_jax import data
    from rnope_jax.cli.config_file import load
    from rnope_jax.run import open_run
    from rnope_jax.training.start import check_source

    moved = run.rename(tmp_path / "moved")
    config = load("moved/config.json")
    assert config == load(str(moved.relative_to(tmp_path)))
    data.check(config)
    check_source(config)
    with open_run(config):
        pass


EXPORT = {
    "run is a file": ("file out", "file is not a directory; give a run directory"),
    "run is not there": ("nowhere out", "nowhere does not exist"),
    "run is empty": ("empty out", "empty: no config.json in it"),
    "run is broken": ("broken out", "broken/config.json: not valid JSON"),
    "out exists": ("run file", "file exists; nothing is overwritten"),
    "out is the run": ("run run", "run exists; nothing is overwritten"),
    "out among checkpoints": (
        "run run/checkpoints/5",
        "lies among the files of the run; choose a place outside of run/ch",
    ),
    "out in a file": ("run file/out", "Not a directory"),
    "out cannot be made": ("run /proc/out", "/proc/"),
    "step of an untrained run": ("run out --step 3", "holds no checkpoint yet"),
    "dtype": ("run out --dtype bf17", "dtype = 'bf17': must be one of float32, bfloat16, float16"),
    "no shard": ("run out --shard-size 0", "shard size = 0: must be at least one byte"),
    "negative shard": ("run out --shard-size -1", "shard size = -1000000000: must be at least one byte"),
    "shard of nothing": ("run out --shard-size nan", "shard_size = nan: must be a number of gigabytes"),
    "endless shard": ("run out --shard-size inf", "shard_size = inf: must be a number of gigabytes"),
    "gguf for vllm": ("run out --gguf --for vllm", "--gguf writes a file for llama.cpp; leave out --for vllm"),
}

IMPORT = {
    "a file": ("file new", "file is not a directory"),
    "not there": ("nowhere new", "nowhere does not exist"),
    "empty": ("empty new", "empty: no config.json in it"),
    "a run": ("run new", "if it is a run already, train from it with --init.source run"),
    "over a run": ("{files} run", "run exists; nothing is overwritten"),
    "over an empty directory": ("{files} empty", "empty exists; nothing is overwritten"),
    "not ours": ("foreign new", r"model_type = 'llama': only cohere2 \(dense\) and cohere can be imported"),
}

TRAIN = {
    "an empty directory": ("empty", "empty is not a run directory: there is no readable config.json in it"),
    "hugging face files": ("{files}", "holds Hugging Face files; make a run of them: rnope import"),
    "a broken run": ("broken", "broken/config.json: not valid JSON"),
    "a run that is not there": ("nowhere", "configuration file nowhere does not exist"),
    "another width": ("run --model.d-ff 48", r"set model\.d_ff = 40"),
    "an optimizer": ("run --init.optimizer True", "holds weights without an optimizer; leave init.optimizer off"),
    "another source": ("run --init.source elsewhere", r"init\.source: '\S*run' there, 'elsewhere' now"),
    "another tokenizer": ("run --data.tokenizer {files}", r"data\.tokenizer: \S+ there, .* now"),
}


@pytest.fixture
def refused(run, files, tmp_path, capsys, monkeypatch, text):
    """Types a command; checks that it ends with one message and that nothing was written."""
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text('{"name": ')
    foreign = shutil.copytree(files, tmp_path / "foreign")
    config = json.loads((foreign / "config.json").read_text())
    (foreign / "config.json").write_text(json.dumps(config | {"model_type": "llama"}))

    def check(program: str, arguments: str, pattern: str) -> None:
        before = tree_hash(tmp_path)
        words = arguments.format(files=files).split()
        if program == "train":
            ended = train_here(monkeypatch, capsys, *words, "--data.corpus", text)
        else:
            ended = rnope_here(capsys, program, *words)
        assert_one_message(ended, pattern)
        assert tree_hash(tmp_path) == before

    return check


@pytest.mark.parametrize(
    ("program", "case"),
    [
        (program, case)
        for program, cases in (("export", EXPORT), ("import", IMPORT), ("train", TRAIN))
        for case in cases
    ],
)
def test_mistakes_end_with_one_message_and_write_nothing(refused, program, case):
    refused(program, *{"export": EXPORT, "import": IMPORT, "train": TRAIN}[program][case])


def test_a_mistake_by_the_real_commands(run, tmp_path):
    for command, pattern in {
        ("train.py", run, "--model.d-ff", "48"): r"set model\.d_ff = 40",
        ("-m", "rnope_jax.cli.main", "export", run, run): "exists; nothing is overwritten",
    }.items():
        ended = finish(start(tmp_path / "cache", *command))
        assert_one_message(ended, pattern)
        assert ended.err.count("\n") == 1
        assert ended.out == ""


def test_a_full_disk_ends_an_export_with_one_message(run, tmp_path, capsys):
    """More room than the weights need by themselves, as other processes fill it meanwhile."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if (
        not shutil.which("mount")
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=120k", "tmpfs", disk], capture_output=True).returncode
    ):
        pytest.skip("nothing can be mounted here")
    try:
        (disk / "other").write_bytes(b"x" * 20_000)
        ended = rnope_here(capsys, "export", run, disk / "out", "--no-verify")
        assert_one_message(ended, "No space left on device|are needed and")
        assert names(disk) == {"other"}
    finally:
        subprocess.run(["umount", disk], check=True)
