"""Text files, plain and compressed, of any length."""

import gzip

import pytest

from rnope_jax.data import tokenizer
from rnope_jax.data.formats import Limits, LongText
from tests.data.formats.readers import LIMITS, read, reasons

SHORT = Limits(record_bytes=50, text_field="text")


def test_a_text_is_one_record(tmp_path):
    (tmp_path / "a.txt").write_text("über\nalles 🙂", encoding="utf-8")
    (tmp_path / "b.md.gz").write_bytes(gzip.compress("雨\r\n".encode()))
    assert [item.value for item in read(tmp_path / "a.txt")] == ["über\nalles 🙂"]
    assert [item.value for item in read(tmp_path / "b.md.gz")] == ["雨\r\n"]


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_long_text_is_cut_as_a_short_one_is_and_never_held(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(tokenizer, "PIECE", 30)
    monkeypatch.setattr("rnope_jax.data.formats.text._READ", 7)  # within characters
    text = "".join(f"🙂 line {i} ü\n" * (i % 3) + "x" * (i % 50) for i in range(60))
    data = text.encode()
    (tmp_path / f"a.txt{suffix}").write_bytes(gzip.compress(data) if suffix else data)
    (item,) = read(tmp_path / f"a.txt{suffix}", limits=SHORT)
    assert isinstance(item.value, LongText)
    assert list(item.value.pieces()) == list(tokenizer.pieces(text))


@pytest.mark.parametrize("length", [10, 500])
def test_broken_text_is_told_with_its_place(tmp_path, monkeypatch, length):
    monkeypatch.setattr("rnope_jax.data.formats.text._READ", 7)
    (tmp_path / "a.txt").write_bytes(b"a" * length + b"\xff" + b"b" * length)
    found = read(tmp_path / "a.txt", limits=SHORT)
    assert reasons(found) == [(0, f"is not UTF-8 text (invalid start byte at byte {length})")]
    (tmp_path / "b.txt").write_bytes(b"a" * length + "ü".encode()[:1])
    assert reasons(read(tmp_path / "b.txt", limits=SHORT)) == [
        (0, f"is not UTF-8 text (unexpected end of data at byte {length})")
    ]


def test_a_half_written_text_is_bad_as_a_whole(tmp_path):
    data = gzip.compress(b"text " * 1000)
    (tmp_path / "a.txt.gz").write_bytes(data[:-9])
    for limits in (LIMITS, SHORT):
        assert reasons(read(tmp_path / "a.txt.gz", limits=limits)) == [
            (0, "the compressed file ends early, as if half-written")
        ]
