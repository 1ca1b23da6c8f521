"""Parquet and ArrayRecord."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from array_record.python.array_record_module import ArrayRecordWriter

from rnope_jax.errors import UserError
from tests.data.corpora import texts as some_texts
from tests.data.formats.readers import Limits, bad, read, reasons, texts, values


def write_parquet(path, columns, rows=10):
    pq.write_table(pa.table(columns), path, row_group_size=rows, compression=None, use_dictionary=False)
    return path


def write_records(path, records):
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()
    return path


@pytest.mark.parametrize("target", [1, 1000, 1 << 30])
def test_each_row_is_a_record_however_the_file_is_divided(tmp_path, target):
    found = some_texts(95)
    path = write_parquet(tmp_path / "a.parquet", {"id": range(95), "text": found})
    assert texts(read(path, target)) == found
    binary = write_parquet(tmp_path / "b.parquet", {"text": [text.encode() for text in found]})
    assert texts(read(binary, target)) == found


def test_a_file_with_another_column_is_refused_and_its_columns_are_told(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", {"body": ["x"], "url": ["y"]})
    with pytest.raises(UserError, match=r"no column 'text'.*its columns are body, url.*--text-field"):
        read(path)
    assert values(read(path, limits=Limits(100, "body"))) == [{"body": "x"}]


def test_conversations_and_pairs_come_out_of_columns(tmp_path):
    messages = [[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]]
    assert values(read(write_parquet(tmp_path / "a.parquet", {"messages": messages}))) == [{"messages": messages[0]}]
    pair = {"prompt": ["a"], "response": ["b"]}
    assert values(read(write_parquet(tmp_path / "b.parquet", pair))) == [{"prompt": "a", "response": "b"}]


def test_rows_that_are_not_text_are_bad_and_the_others_are_read(tmp_path):
    array = pa.array([b"good", b"\xff", b"x" * 60, b"good"]).view(pa.binary()).view(pa.string())
    items = read(write_parquet(tmp_path / "a.parquet", {"text": array}), limits=Limits(50, "text"))
    assert texts(items) == ["good", "good"]
    assert [number for number, _ in reasons(items)] == [2, 3]


def test_a_truncated_file_is_bad_as_a_whole(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", {"text": some_texts(20)})
    for cut in (0, 3, 100, path.stat().st_size - 1):
        (tmp_path / "b.parquet").write_bytes(path.read_bytes()[:cut])
        ((number, reason),) = reasons(read(tmp_path / "b.parquet"))
        assert number == 0
        assert "cannot be read as Parquet" in reason


def test_what_cannot_be_read_of_a_damaged_file_is_counted(tmp_path):
    found = some_texts(40)
    path = write_parquet(tmp_path / "a.parquet", {"text": found}, rows=10)
    start = pq.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
    data = bytearray(path.read_bytes())
    data[start : start + 20] = b"\xff" * 20  # the header of the page
    path.write_bytes(data)
    items = read(path)
    assert texts(items) == found[:10] + found[20:]
    assert [item.value.count for item in items if bad(item)] == [10]
    assert items[-1].number == 40


@pytest.mark.parametrize("target", [1, 1000, 1 << 30])
def test_records_are_texts_or_json(tmp_path, target):
    found = some_texts(70)
    path = write_records(tmp_path / "a.arrayrecord", [text.encode() for text in found])
    assert texts(read(path, target)) == found
    path = write_records(tmp_path / "b.array_record", [json.dumps({"text": text}).encode() for text in found])
    assert texts(read(path, target)) == found


def test_the_first_record_tells_what_the_others_must_be(tmp_path):
    path = write_records(tmp_path / "a.arrayrecord", [b'{"text": "a"}', b"{cut", b'{"text": "b"}', b"\xff"])
    assert texts(read(path)) == ["a", "b"]
    assert [number for number, _ in reasons(read(path, target=1 << 30))] == [2, 4]
    path = write_records(tmp_path / "b.arrayrecord", [b"code", b"{ not json }", b"\xff"])
    assert texts(read(path)) == ["code", "{ not json }"]


def test_a_damaged_array_record_gives_no_record_that_was_not_in_it(tmp_path):
    rng = np.random.default_rng(0)
    found = [f"{i} " + rng.bytes(300).hex() for i in range(400)]
    path = write_records(tmp_path / "a.arrayrecord", [text.encode() for text in found])
    whole = bytearray(path.read_bytes())
    other = tmp_path / "b.arrayrecord"
    for place in rng.integers(0, len(whole), 12):
        whole[place] ^= 4
        other.write_bytes(whole)
        whole[place] ^= 4
        assert set(texts(read(other))) <= set(found)
    for cut in (0, 10, len(whole) // 2):
        other.write_bytes(whole[:cut])
        assert set(texts(read(other))) <= set(found)
        assert any(map(bad, read(other)))
