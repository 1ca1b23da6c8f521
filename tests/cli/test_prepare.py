"""`rnope prepare`, as it is typed."""

import json

import pytest

from rnope_jax.cli.main import main
from rnope_jax.data.prepared import PreparedTokens
from tests.data.corpora import small_tokenizer, texts
from tests.data.preparing.corpora import tree, write_lines


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    place = tmp_path_factory.mktemp("given") / "tokenizer"
    small_tokenizer().save(place)
    return str(place)


@pytest.fixture
def corpus(tmp_path):
    return str(write_lines(tmp_path / "in" / "a.jsonl", [*({"text": text} for text in texts(30)), b"{", {"text": ""}]))


def rnope(*arguments):
    with pytest.raises(SystemExit) as ended:
        main(["prepare", *map(str, arguments)])
    return ended.value.code


def test_it_says_what_it_did_and_what_to_do_next(corpus, tmp_path, given, capsys):
    (tmp_path / "in" / "b.txt").write_text("")
    (tmp_path / "in" / "c.bin").write_text("")
    out = tmp_path / "out"
    assert rnope(tmp_path / "in", out, "--tokenizer", given, "--max-bad", "1") == 0
    said = capsys.readouterr().out
    assert f"done: {out}: 30 documents, {len(PreparedTokens(out)):,} tokens" in said
    assert f"bad         1 records, listed in {out}/quarantine.jsonl" in said
    for part in (
        "2 files with 32 records",
        "1 records without text",
        "1 files without a byte",
        "1 files of directories",
    ):
        assert part in said
    assert f"python train.py CONFIG --data.corpus {out}" in said
    (entry,) = map(json.loads, (out / "quarantine.jsonl").read_text().splitlines())
    assert (entry["file"], entry["line"]) == (corpus, 31)
    before = tree(out)
    assert rnope(tmp_path / "in", out, "--tokenizer", given, "--max-bad", "1") == 0
    assert tree(out) == before


def test_jobs_and_a_merge(corpus, tmp_path, given, capsys):
    small = ("--tokenizer", given, "--max-bad", "50%", "--part-mb", 500 / 2**20, "--workers", "1")
    assert rnope(corpus, tmp_path / "whole", *small) == 0
    out = tmp_path / "out"
    for number in range(3):
        assert rnope(corpus, out, *small, "--job", f"{number}/3") == 0
    assert f"when all jobs are done: rnope prepare --merge {out}" in capsys.readouterr().out
    assert rnope("--merge", out) == 2  # one record is bad, and none may be
    assert rnope("--merge", out, "--max-bad", "1") == 0
    assert tree(out) == tree(tmp_path / "whole")


def test_verifying(corpus, tmp_path, given, capsys):
    out = tmp_path / "out"
    rnope(corpus, out, "--tokenizer", given, "--max-bad", "1")
    assert rnope("--verify", out) == 0
    assert "all files are as they were written" in capsys.readouterr().out
    file = next(out.rglob("tokens-*.bin"))
    data = bytearray(file.read_bytes())
    data[0] ^= 1
    file.write_bytes(data)
    assert rnope("--verify", out) == 1
    assert f"{file}: its contents are not those that were written" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["OUT"], "nothing to prepare: give files or directories before"),
        (["IN", "OUT"], "give the tokenizer: --tokenizer"),
        (["IN", "OUT", "--tokenizer", "absent"], "absent does not exist; give a tokenizer.json"),
        (["IN", "OUT", "--tokenizer", "GIVEN"], "more than 0 bad records, such as"),
        (["IN", "OUT", "--tokenizer", "GIVEN", "--max-bad", "many"], "max_bad = 'many'"),
        (["IN", "OUT", "--tokenizer", "GIVEN", "--workers", "0"], "workers = 0: must be at least 1"),
        (["IN", "OUT", "--tokenizer", "GIVEN", "--job", "3/3"], "job = '3/3'"),
        (["IN", "OUT", "--tokenizer", "GIVEN", "--part-mb", "0"], "part_mb = 0.0: must be a number of megabytes"),
        (["IN", "OUT", "--tokenizer", "GIVEN", "--part-mb", "nan"], "part_mb = nan"),
        (["IN", "OUT", "--tokenizer", "GIVEN", "--shard-tokens", "0"], "shard_tokens = 0: must be at least 1"),
        (["absent.jsonl", "OUT", "--tokenizer", "GIVEN"], "absent.jsonl does not exist"),
        (["--merge", "OUT"], "holds no plan.json"),
        (["--verify", "OUT"], "cannot be read as an index"),
        (["--merge", "--verify", "OUT"], "three commands"),
        (["--verify", "IN", "OUT"], "--verify takes the prepared directory alone"),
        ([], "give the files to prepare and the directory to make"),
    ],
)
def test_mistakes_end_with_a_message_and_code_2(corpus, tmp_path, given, capsys, arguments, message):
    known = {"IN": corpus, "OUT": tmp_path / "out", "GIVEN": given}
    assert rnope(*(known.get(word, word) for word in arguments)) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert "Traceback" not in said.err
