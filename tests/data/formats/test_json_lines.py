"""JSON lines, plain and compressed, whole and broken."""

import gzip
import json
import sys
import tracemalloc

import pytest

from rnope_jax.data.formats import Limits
from tests.data.corpora import texts as some_texts
from tests.data.formats.readers import LIMITS, bad, read, reasons, texts, values

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

#: As the zstd command writes files; without the checksum, not every damage can be seen.
CHECKED = {zstd.CompressionParameter.checksum_flag: 1}

COMPRESSIONS = {".gz": gzip.compress, ".zst": lambda data: zstd.compress(data, options=CHECKED)}


def lines(count=40):
    found = some_texts(count)
    return found, "".join(json.dumps({"text": text}) + "\n" for text in found).encode()


@pytest.mark.parametrize("suffix", [".jsonl", ".ndjson", ".json"])
def test_each_line_is_a_record(tmp_path, suffix):
    found, data = lines()
    file = tmp_path / f"a{suffix}"
    file.write_bytes(data)
    items = read(file)
    assert texts(items) == found
    assert [item.number for item in items] == list(range(1, 41))


def test_however_a_file_is_divided_each_line_is_read_once(tmp_path):
    found, data = lines(12)
    data = b"\n" + data.removesuffix(b"\n")  # a blank line, and no line break at the end
    file = tmp_path / "a.jsonl"
    file.write_bytes(data)
    for target in (1, 2, 7, 64, 65, 100, len(data) - 1, len(data)):
        items = read(file, target)
        assert values(items)[0] is None, target
        assert texts(items)[1:] == found, target


@pytest.mark.parametrize("suffix", COMPRESSIONS)
def test_compressed_lines_also_of_several_streams(tmp_path, suffix):
    found, data = lines()
    file = tmp_path / f"a.jsonl{suffix}"
    file.write_bytes(COMPRESSIONS[suffix](data[:333]) + COMPRESSIONS[suffix](data[333:]))
    assert texts(read(file, target=10)) == found


@pytest.mark.parametrize("suffix", COMPRESSIONS)
def test_a_half_written_file_gives_its_whole_lines_and_one_bad_record(tmp_path, suffix):
    found, data = lines(200)
    whole = COMPRESSIONS[suffix](data)
    file = tmp_path / f"a.jsonl{suffix}"
    for cut in (2, len(whole) // 3, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:cut])
        items = read(file)
        good = texts(items)
        assert good == found[: len(good)]
        assert reasons(items) == [(len(good) + 1, "the compressed file ends early, as if half-written")]


@pytest.mark.parametrize("suffix", COMPRESSIONS)
def test_damage_within_a_compressed_file_is_noticed(tmp_path, suffix):
    found, data = lines(100)
    whole = bytearray(COMPRESSIONS[suffix](data))
    file = tmp_path / f"a.jsonl{suffix}"
    for place in range(20, len(whole), 31):
        whole[place] ^= 0x10
        file.write_bytes(whole)
        whole[place] ^= 0x10
        assert any(map(bad, read(file))), place
    file.write_bytes(whole)
    assert texts(read(file)) == found


def test_bad_lines_are_told_with_their_number_and_the_others_are_read(tmp_path):
    good = b'{"text": "good"}\n'
    broken = [
        b'{"text": "\xff\xfe"}\n',
        b'{"text": "cut\n',
        b'["text"]\n',
        b"17\n",
        b"null\n",
        b"[" * 100_000 + b"\n",
        b"\xef\xbb\xbf" + good,  # a byte order mark belongs at the beginning of a file
    ]
    file = tmp_path / "a.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + good + good.join([*broken, b""]))
    items = read(file)
    assert texts(items) == ["good"] * 8
    found = dict(reasons(items))
    assert list(found) == [2, 4, 6, 8, 10, 12, 14]
    wanted = ["not UTF-8", "not JSON", "an array", "a number", "null", "nested too deeply", "not JSON"]
    assert all(part in reason for part, reason in zip(wanted, found.values(), strict=True))


def test_a_line_too_long_is_passed_over_without_being_held(tmp_path):
    limits = Limits(record_bytes=1 << 20, text_field="text")
    file = tmp_path / "a.jsonl"
    with file.open("wb") as target:
        target.write(b'{"text": "before"}\n')
        target.truncate(1 << 30)  # a line of a gigabyte of zeros, which takes no room on disk
        target.seek(0, 2)
        target.write(b'\n{"text": "after"}\n')
    tracemalloc.start()
    items = read(file, target=1 << 28, limits=limits)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert texts(items) == ["before", "after"]
    assert [number for number, _ in reasons(items)] == [2]
    assert "a line of 1,073,741,806 bytes, more than the 1,048,576" in reasons(items)[0][1]
    assert peak < 16 << 20


def test_a_line_of_just_the_limit_is_read(tmp_path):
    data = json.dumps({"text": "x" * 100}).encode()
    file = tmp_path / "a.jsonl"
    for end in (b"\n", b""):
        file.write_bytes(data + end)
        assert texts(read(file, limits=Limits(len(data), "text"))) == ["x" * 100]
        assert [bad(item) for item in read(file, limits=Limits(len(data) - 1, "text"))] == [True]


def test_an_empty_file_has_no_records(tmp_path):
    for name, data in (("a.jsonl", b""), ("a.jsonl.gz", gzip.compress(b"")), ("a.jsonl.zst", zstd.compress(b""))):
        (tmp_path / name).write_bytes(data)
        assert read(tmp_path / name, limits=LIMITS) == []
