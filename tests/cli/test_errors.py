"""Everything wrong ends in a moment with one message and code 2, and leaves nothing behind."""

import re
from dataclasses import replace

import pytest

from rnope_jax.cli.config_file import load
from rnope_jax.run import open_run
from tests.end_to_end.commands import TINY, Ended, rnope_here, train_here
from tests.training.runs import tree_hash


@pytest.fixture
def train(monkeypatch, capsys, text, tmp_path):
    """Runs train.py on a file with the text of tiny.py, changed by `edits`, and more arguments."""

    def run(*arguments: object, edits: dict[str, str] | None = None, spec: str = "") -> Ended:
        source = TINY.read_text()
        for old, new in (edits or {}).items():
            assert old in source
            source = source.replace(old, new)
        file = tmp_path / "mine.py"
        file.write_text(source)
        monkeypatch.chdir(tmp_path)
        default = ("--data.corpus", text, "--run-dir", tmp_path / "run")
        return train_here(monkeypatch, capsys, f"{file}{spec}", *default, *arguments)

    return run


def assert_one_message(ended: Ended, pattern: str) -> None:
    assert ended.code == 2, ended
    assert ended.err.startswith("error: ")
    assert ended.err.count("error:") == 1
    assert "Traceback" not in ended.err + ended.out
    assert re.search(pattern, ended.err), ended.err
    assert "DeprecationWarning" not in ended.err


IN_THE_FILE = {
    "window 0": ({"window=5": "window=0"}, r"window = 0: must be at least 1"),
    "theta -1": ({"theta=100.0": "theta=-1.0"}, r"rope_theta = -1\.0: must be positive"),
    "heads": ({"num_kv_heads=2": "num_kv_heads=3"}, r"model\.num_kv_heads = 3: must divide num_heads = 4: one of"),
    "unknown field": ({"d_ff=24": "dff=24"}, r"dff: .*no such field; did you mean 'd_ff'"),
    "missing field": ({"            d_ff=24,\n": ""}, r"ModelConfig needs 'd_ff'"),
    "empty pattern": (
        {"rnope_swa(window=5, theta=100.0, ratio=1)": "()"},
        r"model\.pattern = \(\): needs at least one",
    ),
    "ratio 0": ({"ratio=1": "ratio=0"}, r"ratio = 0: a pattern needs at least one RoPE layer"),
    "wrong type": ({"d_ff=24": "d_ff='24'"}, r"model\.d_ff = '24': expected a whole number"),
    "no stages": ({'stages=(first, replace(first, name="second", steps=6, rope_theta=1000.0))': "stages=()"}, "stages"),
    "stages of one name": ({'name="second"': 'name="first"'}, r"stages .*: names must differ"),
    "not python": ({"def number": "def number("}, r"mine\.py.*: SyntaxError"),
    "unknown module": ({"from dataclasses": "from dataclass"}, r"mine\.py.*: ModuleNotFoundError: .*dataclass"),
    "unknown name": ({"CheckpointConfig(every": "CheckpointConf(every"}, r"mine\.py.*: NameError"),
}


@pytest.mark.parametrize("case", IN_THE_FILE)
def test_mistakes_in_the_file(train, tmp_path, case):
    edits, pattern = IN_THE_FILE[case]
    ended = train(edits=edits)
    assert_one_message(ended, pattern)
    assert "mine.py" in ended.err
    assert not (tmp_path / "run").exists()


ON_THE_COMMAND_LINE = {
    "window 0": ("--model.pattern.0.window 0", r"window = 0: must be at least 1"),
    "heads": ("--model.num-kv-heads 3", r"model\.num_kv_heads = 3"),
    "steps 0": ("--stages.0.steps 0", r"stages\['first'\]\.steps = 0: must be at least 1"),
    "batch and devices": ("--stages.0.batch-size 12", r"stages\[0\]\.batch_size = 12: .* divisible by 8 .*8 or 16"),
    "batch and accumulation": ("--stages.0.accumulation 3", r"batch_size = 8: must be divisible by accumulation = 3"),
    "micro-batch and devices": ("--stages.1.accumulation 2", r"stages\[1\]\.batch_size = 8: must be divisible by 16"),
    "devices": ("--mesh.data 3", r"mesh\.data = 3, .* the product must equal the number of devices, 8"),
    "two open axes": ("--mesh.data -1", r"only one axis may be -1"),
    "indivisible parameter": ("--mesh.fsdp 2 --mesh.tensor 4", r"attention\..*: its axis 'kv_heads' of size 2"),
    "missing corpus": ("--data.corpus nowhere", r"data\.corpus: nowhere does not exist"),
    "missing corpus of a stage": ("--stages.1.corpus nowhere", r"data\.corpus: nowhere does not exist"),
    "missing tokenizer": ("--data.tokenizer nowhere.json", r"data\.tokenizer: nowhere\.json does not exist"),
    "unreadable tokenizer": ("--data.tokenizer mine.py", r"mine\.py cannot be read as a tokenizer\.json"),
    "vocabulary": ("--model.vocab-size 100", r"model\.vocab_size = 100: a byte-level tokenizer needs at least 259"),
    "fraction": ("--data.held-out-fraction 1.5", r"data\.held_out_fraction = 1\.5: must be between 0 and 1"),
    "not a number": ("--optimizer.weight-decay nan", r"optimizer\.weight_decay = nan: must be finite"),
    "learning rate": ("--stages.0.schedule.peak -1", r"schedule\.peak = -1\.0: must be positive"),
    "warm-up": ("--stages.1.schedule.warmup-steps 9", r"warmup_steps = 9: must not exceed the stage's steps = 6"),
}


@pytest.mark.parametrize("case", ON_THE_COMMAND_LINE)
def test_mistakes_on_the_command_line(train, tmp_path, case):
    arguments, pattern = ON_THE_COMMAND_LINE[case]
    assert_one_message(train(*arguments.split()), pattern)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("option", ["--model.d-fff 3", "--seed abc", "--optimizer.name sgd", "--model.remat"])
def test_options_that_do_not_exist_or_cannot_be_read(train, tmp_path, option):
    """The parser of the command line has its own way to say so."""
    ended = train(*option.split())
    assert ended.code == 2
    assert option.split()[0] in ended.err
    assert "Traceback" not in ended.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("spec", "pattern"),
    [
        (":nothing", r"mine\.py: .*no function 'nothing'.* It has: config, number"),
        (":confg", r"did you mean .*mine\.py:config\?"),
        (":number", r"mine\.py: number returned int, not a Config"),
        (".old", r"configuration file .*mine\.py\.old does not exist; did you mean .*mine\.py\?"),
    ],
)
def test_files_and_functions_that_are_not_there(train, spec, pattern):
    assert_one_message(train(spec=spec), pattern)


def test_a_command_without_a_file_shows_how_to_use_it(monkeypatch, capsys):
    ended = train_here(monkeypatch, capsys)
    assert ended.code == 2
    assert "usage: train.py FILE.py" in ended.out + ended.err
    assert_one_message(train_here(monkeypatch, capsys, "--seed", 3), "the first argument must be a configuration file")
    ended = train_here(monkeypatch, capsys, "--help")
    assert (ended.code, ended.err) == (0, "")


def test_help_lists_the_fields(train):
    ended = train("--help")
    assert ended.code == 0
    for option in ("--model.d-ff", "--stages.1.rope-theta", "--optimizer.skip-spikes", "--run-dir"):
        assert option in ended.out


def test_a_run_directory_that_cannot_be_written(train, tmp_path):
    (tmp_path / "file").write_text("")
    ended = train("--run-dir", tmp_path / "file" / "run")
    assert_one_message(ended, r"run_dir: cannot write to .*/file/run: Not a directory")


def test_a_run_directory_with_something_else(train, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("")
    assert_one_message(train(), r"run exists and is not a run directory \(it holds thesis\.tex\)")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.tex"]


def test_a_run_of_another_configuration(train, text, tmp_path):
    config = load(str(TINY))
    config = replace(config, data=replace(config.data, corpus=(str(text),)), run_dir=str(tmp_path / "run"))
    with open_run(config) as run:
        run.record(config)
    before = tree_hash(run.path)
    ended = train("--seed", 7, "--stages.0.steps", 99)
    assert_one_message(ended, r"(?s)another configuration:.*stages\[0\]\.steps: 14 there, 99 now.*seed: 0 there, 7 now")
    assert tree_hash(run.path) == before


def test_a_corpus_with_too_little_text_can_be_mended_in_place(train, tmp_path):
    """The first attempt must not bind the run directory to its configuration."""
    ended = train("--stages.1.sequence-length", 100_000)
    assert_one_message(ended, "too few for one row of 100000")
    assert not (tmp_path / "run" / "config.json").exists()


GENERATE = {
    "no run": (("nowhere", "x"), "nowhere does not exist"),
    "temperature": (("nowhere", "x", "--temperature", "-1"), r"temperature = -1\.0: must be 0"),
    "top_p": (("nowhere", "x", "--top-p", "0"), r"top_p = 0\.0: must be above 0"),
    "top_k": (("nowhere", "x", "--top-k", "0"), r"top_k = 0: must be at least 1"),
}


@pytest.mark.parametrize("case", GENERATE)
def test_mistakes_in_generate(capsys, tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    arguments, pattern = GENERATE[case]
    assert_one_message(rnope_here(capsys, "generate", *arguments), pattern)
    assert list(tmp_path.iterdir()) == []


def test_generating_before_the_first_checkpoint(capsys, tmp_path):
    config = replace(load(str(TINY)), run_dir=str(tmp_path / "run"))
    with open_run(config) as run:
        run.record(config)
    assert_one_message(rnope_here(capsys, "generate", run.path, "x"), "holds no checkpoint yet")


def test_a_command_that_does_not_exist(capsys):
    ended = rnope_here(capsys, "generat")
    assert ended.code == 2
    assert "generat" in ended.err
    assert "Traceback" not in ended.err
