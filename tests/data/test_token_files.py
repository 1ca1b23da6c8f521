"""Token files of other programs."""

import struct

import numpy as np
import pytest

from rnope_jax.data import token_files
from rnope_jax.data.token_files import FileTokens
from rnope_jax.errors import UserError
from tests.data.corpora import small_tokenizer

RNG = np.random.default_rng(0)


def docs():
    """Documents of ordinary tokens, of uneven lengths."""
    return [RNG.integers(3, 300, length).tolist() for length in (5, 1, 40, 7, 300, 2)]


def opened(path, directory):
    token_files.check(path)
    token_files.make_index(path, directory, small_tokenizer())
    return FileTokens(directory)


def parts(tokens):
    ends = [*tokens.starts[1:], len(tokens)]
    return [tokens.read(int(a), int(b)).tolist() for a, b in zip(tokens.starts, ends, strict=True)]


def raw(path, documents, dtype="<u2", before=b""):
    path.write_bytes(before + np.concatenate(documents).astype(dtype).tobytes())
    return path


def llm_c(path, documents, magic=20240520, version=1, dtype="<u2"):
    count = sum(map(len, documents))
    return raw(path, documents, dtype, struct.pack("<256i", magic, version, count, *[0] * 253))


def megatron(prefix, documents, sequences=None, code=8, dtype="<u2", change=None):
    """The two files; `sequences` divides each document into several."""
    pieces = [piece for document in documents for piece in (sequences or (lambda d: [d]))(document)]
    counts = [len((sequences or (lambda d: [d]))(document)) for document in documents]
    lengths = np.array([len(piece) for piece in pieces], "<i4")
    places = np.concatenate([[0], np.cumsum(lengths)[:-1]]) * np.dtype(dtype).itemsize
    first = np.concatenate([[0], np.cumsum(counts)]).astype("<i8")
    index = [b"MMIDIDX\x00\x00", struct.pack("<QBQQ", 1, code, len(lengths), len(first))]
    index += [lengths.tobytes(), places.astype("<i8").tobytes(), first.tobytes()]
    prefix.with_name(prefix.name + ".idx").write_bytes(b"".join(index))
    raw(prefix.with_name(prefix.name + ".bin"), documents, dtype)
    return prefix


@pytest.mark.parametrize("name", ["a.bin", "a.npy"])
def test_documents_end_with_the_end_token(tmp_path, name):
    """As nanoGPT and OLMo write them."""
    end = small_tokenizer().eos_id
    documents = [[*document, end] for document in docs()]
    assert parts(opened(raw(tmp_path / name, documents), tmp_path / "index")) == documents


@pytest.mark.parametrize(
    ("magic", "version", "dtype"), [(20240520, 1, "<u2"), (20240801, 7, "<u4")], ids=["16 bits", "32 bits"]
)
@pytest.mark.parametrize("mark", ["bos_id", "eos_id"])
def test_documents_begin_with_a_token_as_llm_c_writes_them(tmp_path, magic, version, dtype, mark):
    begin = getattr(small_tokenizer(), mark)
    documents = [[begin, *document] for document in docs()]
    made = opened(llm_c(tmp_path / "a.bin", documents, magic, version, dtype), tmp_path / "index")
    assert parts(made) == documents
    assert made.read(0, 5).dtype == np.int32


def test_a_true_npy_file(tmp_path):
    documents = [[*document, small_tokenizer().eos_id] for document in docs()]
    np.save(tmp_path / "a.npy", np.concatenate(documents).astype(np.uint16))
    assert parts(opened(tmp_path / "a.npy", tmp_path / "index")) == documents
    for array in (np.zeros((2, 2), int), np.zeros(3), np.zeros(3, ">u2")):
        np.save(tmp_path / "b.npy", array)
        with pytest.raises(UserError, match="not one row of whole numbers"):
            token_files.check(tmp_path / "b.npy")
    np.save(tmp_path / "c.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(UserError, match="cannot be read"):
        token_files.check(tmp_path / "c.npy")


@pytest.mark.parametrize(("code", "dtype"), [(8, "<u2"), (4, "<i4"), (5, "<i8"), (3, "<i2")])
@pytest.mark.parametrize("given", ["a", "a.bin", "a.idx"])
def test_documents_are_those_of_a_megatron_index(tmp_path, code, dtype, given):
    documents = docs()
    megatron(tmp_path / "a", documents, lambda d: [d[:3], d[3:]] if len(d) > 3 else [d], code, dtype)
    assert token_files.is_token_file(tmp_path / given)
    assert parts(opened(tmp_path / given, tmp_path / "index")) == documents


def test_documents_without_tokens_are_none(tmp_path):
    documents = docs()
    megatron(tmp_path / "a", [[], *documents[:2], [], [], *documents[2:], []])
    assert parts(opened(tmp_path / "a", tmp_path / "index")) == documents


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (0, "is not an index of Megatron-LM"),
        (9, "version 2"),
        (17, "type 9"),
        (18, "not those of 7 sequences"),
        (26, "not those of 6 sequences in 8 documents"),
        (34, "do not lie one after the other"),
        (34 + 4 * 6 + 8, "do not lie one after the other"),
        (34 + 12 * 6, "tokens that|in order|damaged"),
    ],
)
def test_a_megatron_index_that_lies_is_refused(tmp_path, place, message):
    megatron(tmp_path / "a", docs())
    data = bytearray((tmp_path / "a.idx").read_bytes())
    data[place] += 1
    (tmp_path / "a.idx").write_bytes(data)
    if place == 34 + 12 * 6:
        data[place] = 200
        (tmp_path / "a.idx").write_bytes(data)
        message = "documents are not in order"
    with pytest.raises(UserError, match=message):
        token_files.check(tmp_path / "a")


@pytest.mark.parametrize("cut", [0, 8, 33, 40, -1])
def test_a_truncated_index_is_refused(tmp_path, cut):
    megatron(tmp_path / "a", docs())
    data = (tmp_path / "a.idx").read_bytes()
    (tmp_path / "a.idx").write_bytes(data[:cut])
    with pytest.raises(UserError, match=r"a\.idx"):
        token_files.check(tmp_path / "a")


def test_files_of_another_size_than_their_header_tells_are_refused(tmp_path):
    llm_c(tmp_path / "a.bin", docs())
    megatron(tmp_path / "b", docs())
    for name in ("a.bin", "b.bin"):
        data = (tmp_path / name).read_bytes()
        for other in (data[:-2], data + b"\0\0"):
            (tmp_path / name).write_bytes(other)
            with pytest.raises(UserError, match=rf"{name} has \d+ bytes"):
                token_files.check(tmp_path / name)
    (tmp_path / "c.bin").write_bytes(b"abc")
    with pytest.raises(UserError, match="no tokens of 2 bytes"):
        token_files.check(tmp_path / "c.bin")
    llm_c(tmp_path / "d.bin", docs(), version=3)
    with pytest.raises(UserError, match="version 3"):
        token_files.check(tmp_path / "d.bin")
    with pytest.raises(UserError, match=r"absent\.bin: No such file"):
        token_files.check(tmp_path / "absent.bin")


def test_tokens_of_another_tokenizer_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(token_files, "_READ", 64)
    documents = docs()
    documents[4][200] = small_tokenizer().vocab_size
    raw(tmp_path / "a.bin", documents)
    place = sum(map(len, documents[:4])) + 200
    with pytest.raises(UserError, match=rf"token 300 at place {place} is not among the 300 of the tokenizer"):
        token_files.make_index(tmp_path / "a.bin", tmp_path / "index", small_tokenizer())
    megatron(tmp_path / "b", [[3, -1]], code=4, dtype="<i4")
    with pytest.raises(UserError, match="token -1 at place 1"):
        token_files.make_index(tmp_path / "b", tmp_path / "index", small_tokenizer())
    assert not (tmp_path / "index").exists()
    (tmp_path / "c.bin").write_bytes(b"")
    with pytest.raises(UserError, match="holds no tokens"):
        token_files.make_index(tmp_path / "c.bin", tmp_path / "index", small_tokenizer())


def test_what_changes_later_is_noticed(tmp_path):
    path = raw(tmp_path / "a.bin", docs())
    made = opened(path, tmp_path / "index")
    before = made.fingerprint
    data = bytearray(path.read_bytes())
    data[6] ^= 1
    path.write_bytes(data)
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(UserError, match=r"a\.bin is damaged between bytes 0 and 32768"):
        FileTokens(tmp_path / "index").read(0, 10)
    assert opened(path, tmp_path / "again").fingerprint != before
    path.write_bytes(data[:-2])
    with pytest.raises(UserError, match=r"a\.bin has \d+ bytes, not the"):
        FileTokens(tmp_path / "index")


def test_pieces_do_not_matter(tmp_path, monkeypatch):
    documents = [[*document, small_tokenizer().eos_id] for document in docs()]
    llm_c(tmp_path / "a.bin", documents)
    whole = opened(tmp_path / "a.bin", tmp_path / "whole")
    monkeypatch.setattr(token_files, "_READ", 6)
    pieces = opened(tmp_path / "a.bin", tmp_path / "pieces")
    assert pieces.index == whole.index
    assert parts(pieces) == documents
