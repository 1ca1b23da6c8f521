"""Preparing as a whole: the same result however it is done, nothing lost, nothing taken that is not right."""

import errno
import fcntl
import gzip
import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from rnope_jax.data import preparing, seal, tokenizer
from rnope_jax.data.prepared import PreparedTokens
from rnope_jax.data.preparing import Job, Options, Tolerance, part
from rnope_jax.data.shards import ShardWriter
from rnope_jax.errors import UserError
from tests.data.corpora import small_tokenizer, texts
from tests.data.preparing.corpora import documents, expected, prepared, tree, write_lines

#: Units of a few records.
SMALL = Options(part_bytes=1000)


@pytest.fixture
def corpus(tmp_path):
    """Files of several kinds, with bad records among them."""
    found = texts(60)
    write_lines(tmp_path / "in" / "a.jsonl", [{"text": text} for text in found[:40]])
    write_lines(tmp_path / "in" / "b.jsonl", [{"prompt": a, "response": b} for a, b in zip(found, found, strict=True)])
    (tmp_path / "in" / "c.txt").write_text(found[40])
    (tmp_path / "in" / "empty.txt").write_text("")
    (tmp_path / "in" / "d.jsonl.gz").write_bytes(gzip.compress(json.dumps({"text": found[41]}).encode()))
    return str(tmp_path / "in")


def prepare(corpus, out, options=SMALL, tolerance=Tolerance(), **more):  # noqa: B008
    return preparing.prepare([corpus], out, small_tokenizer(), options, tolerance=tolerance, **more)


def test_workers_and_jobs_make_the_same_files(corpus, tmp_path):
    prepare(corpus, tmp_path / "one")
    prepare(corpus, tmp_path / "processes", workers=2)
    for number in (2, 0, 1):
        assert prepare(corpus, tmp_path / "jobs", job=Job(number, 3)) is None
        with pytest.raises(UserError, match="is not complete"):
            PreparedTokens(tmp_path / "jobs")
    preparing.merge(tmp_path / "jobs")
    assert len(list((tmp_path / "one" / "parts").iterdir())) > 5
    assert tree(tmp_path / "one") == tree(tmp_path / "processes") == tree(tmp_path / "jobs")


def test_a_merge_waits_for_all_jobs(corpus, tmp_path):
    prepare(corpus, tmp_path / "out", job=Job(0, 2))
    with pytest.raises(UserError, match=r"\d+ of \d+ parts are missing, the first is 1; run the jobs again"):
        preparing.merge(tmp_path / "out")
    with pytest.raises(UserError, match=r"holds no plan\.json"):
        preparing.merge(tmp_path)


def test_killed_again_and_again_it_makes_the_same_files(corpus, tmp_path):
    """SIGKILL to the first process at some moment of its work; its workers end with it."""
    size = 500  # so many parts that it cannot come to its end between two looks
    prepare(corpus, tmp_path / "whole", Options(part_bytes=size))
    small_tokenizer().save(tmp_path / "tokenizer")
    command = [sys.executable, "-m", "rnope_jax.cli.main", "prepare", corpus, str(tmp_path / "out")]
    command += ["--tokenizer", str(tmp_path / "tokenizer"), "--workers", "2", "--part-mb", str(size / 2**20)]
    parts = tmp_path / "out" / "parts"
    for wanted in (1, 4, 7):
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            while process.poll() is None and len(list(parts.glob("0*"))) < wanted:
                time.sleep(0.005)
            process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "out" / "index.json").exists()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_what_is_done_is_not_done_again(corpus, tmp_path, monkeypatch):
    out, calls = tmp_path / "out", []
    write, began = part.write, part.path(out, 0)

    def fails(directory, *args):
        calls.append(directory.name)
        if len(calls) == 5:
            raise KeyboardInterrupt
        write(directory, *args)

    monkeypatch.setattr(part, "write", fails)
    with pytest.raises(KeyboardInterrupt):
        prepare(corpus, out)
    stamp = (began / "index.json").stat().st_mtime_ns
    prepare(corpus, out)
    assert (began / "index.json").stat().st_mtime_ns == stamp
    assert len(calls) == len(set(calls)) + 1  # only the fifth was begun twice
    before = len(calls)
    assert prepare(corpus, out) == PreparedTokens(out).index
    assert len(calls) == before


def test_an_interrupted_part_leaves_nothing_under_its_name(corpus, tmp_path, monkeypatch):
    def fails(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(part, "_encodable", fails)
    with pytest.raises(KeyboardInterrupt):
        prepare(corpus, tmp_path / "out")
    assert list((tmp_path / "out" / "parts").iterdir()) == []
    monkeypatch.undo()
    prepare(corpus, tmp_path / "out")
    prepare(corpus, tmp_path / "whole")
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_a_full_disk_ends_the_work_with_a_message_and_it_goes_on_later(corpus, tmp_path, monkeypatch):
    def fails(self, values):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write = ShardWriter.write
    prepare(corpus, tmp_path / "out", job=Job(0, 2))
    monkeypatch.setattr(ShardWriter, "write", fails)
    with pytest.raises(
        UserError, match=r"parts/000001 cannot be written: No space left on device; what is done is kept"
    ):
        prepare(corpus, tmp_path / "out")
    monkeypatch.setattr(ShardWriter, "write", write)
    prepare(corpus, tmp_path / "out")
    prepare(corpus, tmp_path / "whole")
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_another_process_at_the_same_work_is_waited_for_and_told(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr("rnope_jax.data.preparing.workers._PATIENCE", 0)
    out = tmp_path / "out"
    prepare(corpus, out, job=Job(0, 1000))
    aside = out / "parts" / ".000001.partial"
    aside.mkdir()
    handle = os.open(aside, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(UserError, match="another process prepares"):
        prepare(corpus, out)
    os.close(handle)
    prepare(corpus, out)


def change_size(corpus):
    with (Path(corpus) / "c.txt").open("a") as file:
        file.write("more")


def change_time(corpus):
    os.utime(Path(corpus) / "c.txt", (1, 1))


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (change_size, SMALL, r"c\.txt has changed"),
        (change_time, SMALL, r"c\.txt has changed"),
        (lambda corpus: (Path(corpus) / "c.txt").unlink(), SMALL, r"c\.txt is no longer among the files"),
        (lambda corpus: (Path(corpus) / "z.txt").write_text("z"), SMALL, r"z\.txt was not among the files"),
        (lambda corpus: None, Options(part_bytes=1001), "part_bytes was 1000 and is 1001"),
        (lambda corpus: None, Options(part_bytes=1000, text_field="body"), "text_field was 'text' and is 'body'"),
    ],
)
def test_work_is_not_taken_up_with_something_else(corpus, tmp_path, change, options, message):
    prepare(corpus, tmp_path / "out", job=Job(0, 2))
    before = tree(tmp_path / "out")
    change(corpus)
    with pytest.raises(UserError, match=message):
        prepare(corpus, tmp_path / "out", options)
    assert tree(tmp_path / "out") == before


def test_another_tokenizer_is_refused(corpus, tmp_path):
    prepare(corpus, tmp_path / "out")
    with pytest.raises(UserError, match="the tokenizer is another"):
        preparing.prepare([corpus], tmp_path / "out", tokenizer.train(["abc"], 280), SMALL)


def test_places_that_hold_something_else_are_refused(corpus, tmp_path):
    with pytest.raises(UserError, match="lies within"):
        prepare(corpus, Path(corpus) / "out")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "precious").write_text("x")
    with pytest.raises(UserError, match="holds something else"):
        prepare(corpus, tmp_path / "other")
    assert os.listdir(tmp_path / "other") == ["precious"]
    prepare(corpus, tmp_path / "done", Options())
    with pytest.raises(UserError, match=r"done is prepared already; give it as data\.corpus"):
        prepare(str(tmp_path / "done"), tmp_path / "out")
    with pytest.raises(UserError, match="nowhere does not exist"):
        prepare("nowhere", tmp_path / "out")
    with pytest.raises(UserError, match=r"no files found; directories are searched for .*\.parquet"):
        prepare(str(tmp_path / "other"), tmp_path / "out")


def write_bad(folder):
    """Ten good records, six bad ones, two empty."""
    lines = [{"text": f"river {i}"} for i in range(10)]
    lines[3:3] = [b'{"text": "\xff"}', b"{", {"body": "x"}]
    lines[9:9] = [{"text": ""}, b"", {"text": 7}]
    write_lines(folder / "a.jsonl", lines)
    (folder / "b.txt").write_bytes(b"\xff")
    (folder / "c.jsonl.gz").write_bytes(gzip.compress(b'{"text": "stone"}\n' * 9)[:-4])
    (folder / "empty.jsonl").write_bytes(b"")
    return str(folder)


@pytest.mark.parametrize("part_bytes", [60, 1 << 20])
def test_bad_records_are_counted_and_put_aside_with_file_and_line(tmp_path, part_bytes):
    corpus, out = write_bad(tmp_path / "in"), tmp_path / "out"
    options = Options(part_bytes=part_bytes)
    index = prepare(corpus, out, options, Tolerance(6))
    made = PreparedTokens(out)
    assert (index["documents"], index["bad"], index["empty"], index["records"]) == (19, 6, 2, 27)
    assert (index["files"], index["empty_files"]) == (4, 1)
    entries = [json.loads(line) for line in (out / "quarantine.jsonl").read_text().splitlines()]
    assert [(Path(entry["file"]).name, entry["line"]) for entry in entries] == [
        ("a.jsonl", 4),
        ("a.jsonl", 5),
        ("a.jsonl", 6),
        ("a.jsonl", 12),
        ("b.txt", 0),
        ("c.jsonl.gz", 10),
    ]
    assert entries[0]["begins"] == '{"text": "\\xff"}\n'
    assert all(entry["reason"] and entry["records"] == 1 for entry in entries)
    assert made.name(9) == f"{corpus}/a.jsonl:16"
    assert documents(made) == expected([*(f"river {i}" for i in range(10)), *["stone"] * 9])


@pytest.mark.parametrize("workers", [1, 2])
def test_too_many_bad_records_end_the_work_and_more_may_be_allowed(tmp_path, workers):
    corpus, out = write_bad(tmp_path / "in"), tmp_path / "out"
    options = Options(part_bytes=60)
    with pytest.raises(
        UserError, match=r"more than 2 bad records, such as\n(  .*a\.jsonl \(record \d of .*\n)+.*--max-bad"
    ):
        prepare(corpus, out, options, Tolerance(2), workers=workers)
    assert not (out / "index.json").exists()
    with pytest.raises(UserError, match=r"6 of 27 records are bad, more than the 5 that --max-bad"):
        prepare(corpus, out, options, Tolerance.parse("22%"))
    assert len((out / "quarantine.jsonl").read_text().splitlines()) == 6
    prepare(corpus, out, options, Tolerance.parse("23%"))
    prepare(corpus, tmp_path / "other", options, Tolerance.parse("6"))
    assert tree(out) == tree(tmp_path / "other")


def test_nothing_at_all_is_an_error(tmp_path):
    write_lines(tmp_path / "a.jsonl", [{"text": ""}, b""])
    with pytest.raises(UserError, match=r"none of the 2 records has text to learn from \(0 are bad, 2 empty, 0 files"):
        prepare(str(tmp_path / "a.jsonl"), tmp_path / "out")


def test_a_bad_record_is_shown_with_its_line_and_its_beginning(tmp_path):
    write_lines(tmp_path / "a.jsonl", [{"text": "river"}, {"text": 7}, b"[", b'\xff\xfe{"'])
    with pytest.raises(UserError) as caught:
        prepare(str(tmp_path / "a.jsonl"), tmp_path / "out", Options(), Tolerance(2))
    lines = [line.removeprefix(f"  {tmp_path}/a.jsonl:") for line in str(caught.value).splitlines()[1:4]]
    assert lines == [
        """2: field 'text' is a number, not a text: {"text": 7}""",
        "3: is not JSON (Expecting value at character 3; each line must be a whole record): [",
        """4: is not UTF-8 (invalid start byte at byte 0; it begins like UTF-16: convert the file): \\xff\\xfe{\"""",
    ]


def test_what_is_no_regular_file_is_refused(tmp_path):
    """A pipe can be read once, and nobody knows how long it is."""
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(UserError, match=r"pipe\.jsonl is not a regular file"):
        prepare(str(tmp_path / "pipe.jsonl"), tmp_path / "out")
    write_lines(tmp_path / "a.jsonl", [{"text": "river"}])
    with pytest.raises(UserError, match=r"a\.jsonl is a file; give a directory to make"):
        prepare(str(tmp_path / "a.jsonl"), tmp_path / "a.jsonl")


def test_a_file_that_grows_while_it_is_read_becomes_no_part(tmp_path, monkeypatch):
    file = tmp_path / "a.jsonl"
    write_lines(file, [{"text": "river"}] * 5)
    write = ShardWriter.write

    def grow(writer, values):
        with file.open("a") as stream:
            stream.write('{"text": "more"}\n')
        write(writer, values)

    monkeypatch.setattr(ShardWriter, "write", grow)
    with pytest.raises(UserError, match=r"a\.jsonl changed while it was read \(it had 90 bytes and has 107\)"):
        prepare(str(file), tmp_path / "out")
    assert not list((tmp_path / "out" / "parts").iterdir())


@pytest.mark.parametrize("text", ["-1", "101%", "x", "1.5", "", "%"])
def test_tolerances_that_are_none_are_refused(text):
    with pytest.raises(UserError, match="max_bad = "):
        Tolerance.parse(text)


@pytest.mark.parametrize("text", ["1/1", "2", "-1/2", "a/b", "1/0", "/"])
def test_jobs_that_are_none_are_refused(text):
    with pytest.raises(UserError, match="job = "):
        Job.parse(text)
    assert Job.parse("1/2") == Job(1, 2)


def test_every_file_is_verified(corpus, tmp_path):
    out = tmp_path / "out"
    prepare(corpus, out, Options())
    assert preparing.verify(out) == []
    for path in sorted(out.rglob("*.*")):
        if not path.is_file() or path.name in ("plan.json", "tokenizer_config.json", "index.json"):
            continue
        data = path.read_bytes()
        changed = bytearray(data) or bytearray(b"x")
        changed[len(changed) // 2] ^= 1
        path.write_bytes(changed)
        (wrong,) = preparing.verify(out)
        assert str(path.parent if path.parent.name == "tokenizer" else path) in wrong
        path.unlink()
        assert len(preparing.verify(out)) == 1
        path.write_bytes(data)


def test_an_index_that_lies_is_refused(corpus, tmp_path):
    made = prepared(tmp_path / "out", Path(corpus), part_bytes=1000)
    path = tmp_path / "out" / "index.json"
    text = path.read_text()
    for old, new in [
        (f'"tokens": {len(made)}', f'"tokens": {len(made) + 1}'),
        ('"<u2"', '"<u4"'),
        ('"name": "000000"', '"name": "000001"'),
        ('"bad": 0', '"bad": 1'),
    ]:
        assert old in text
        path.write_text(text.replace(old, new, 1))
        with pytest.raises(UserError, match="is not as it was written"):
            PreparedTokens(tmp_path / "out")
    for broken in ("", "{", "[]", text[: len(text) // 2]):
        path.write_text(broken)
        with pytest.raises(UserError, match="cannot be read as an index"):
            PreparedTokens(tmp_path / "out")


def resealed(path, change):
    content = seal.read(path)
    change(content)
    path.write_text(seal.text(content))


@pytest.mark.parametrize(
    "change",
    [
        lambda index: index.update(tokens=index["tokens"] + 1),
        lambda index: index.update(documents=index["documents"] + 1),
        lambda index: index.update(dtype="<u4"),
        lambda index: index["parts"][0].update(tokens=1),
        lambda index: index["parts"][0]["shards"][0].update(count=1),
        lambda index: index["parts"][0]["shards"][0].update(name="../000001/tokens-0000"),
        lambda index: index["parts"].pop(),
        lambda index: index.pop("parts"),
    ],
)
def test_an_index_that_does_not_fit_its_files_is_refused(corpus, tmp_path, change):
    """Whoever changed it also made its checksum fit."""
    prepare(corpus, tmp_path / "out")
    resealed(tmp_path / "out" / "index.json", change)
    with pytest.raises(UserError):
        PreparedTokens(tmp_path / "out")


def test_other_starts_are_refused(corpus, tmp_path):
    made = prepared(tmp_path / "out", Path(corpus))
    path = tmp_path / "out" / "starts.bin"
    starts = np.array(made.starts)
    starts[3] += 1
    path.write_bytes(starts.tobytes())
    with pytest.raises(UserError, match=r"starts\.bin is not as it was written"):
        PreparedTokens(tmp_path / "out")
    path.write_bytes(starts[:-1].tobytes())
    with pytest.raises(UserError, match=r"starts\.bin has \d+ bytes"):
        PreparedTokens(tmp_path / "out")


def test_damaged_tokens_and_masks_are_noticed_when_they_are_read(corpus, tmp_path):
    prepare(corpus, tmp_path / "out")
    for name in ("tokens", "counted"):
        file = sorted((tmp_path / "out").rglob(f"{name}-*.bin"))[-1]
        data = bytearray(file.read_bytes())
        data[5] ^= 1
        file.write_bytes(data)
        damaged = PreparedTokens(tmp_path / "out")
        with pytest.raises(UserError, match=rf"{name}-0000\.bin is damaged"):
            (damaged.read if name == "tokens" else damaged.counted)(0, len(damaged))
        data[5] ^= 1
        file.write_bytes(data)


def test_the_fingerprint_tells_of_every_change(corpus, tmp_path):
    first = prepared(tmp_path / "a", Path(corpus)).fingerprint
    assert prepared(tmp_path / "b", Path(corpus)).fingerprint == first
    assert json.loads(json.dumps(first)) == first
    file = Path(corpus) / "a.jsonl"
    file.write_bytes(file.read_bytes().replace(b"river", b"stone", 1))
    second = prepared(tmp_path / "c", Path(corpus)).fingerprint
    assert [name for name in first if first[name] != second[name]] == ["files"]
    other = tokenizer.train(texts(50), 301)
    assert prepared(tmp_path / "d", Path(corpus), made_with=other).fingerprint["tokenizer"] != first["tokenizer"]


def test_memory_does_not_grow_with_the_corpus(tmp_path, monkeypatch):
    monkeypatch.setattr("rnope_jax.data.preparing.merging._DOCUMENTS", 256)
    peaks = []
    for count in (2_000, 20_000):
        write_lines(tmp_path / f"{count}.jsonl", [{"text": "river stone"}] * count)
        tracemalloc.start()
        prepare(str(tmp_path / f"{count}.jsonl"), tmp_path / f"out{count}", Options())
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]
