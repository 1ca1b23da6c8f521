"""Token files."""

import hashlib
import json
import lzma

import numpy as np
import pytest
import tokenizers

from rnope_jax.data import Tokenizer, Tokens, TokenStore, store
from rnope_jax.data.sources import Document
from rnope_jax.errors import UserError
from tests.data.corpora import documents, make_store, small_tokenizer


def test_tokens_are_the_documents_one_after_the_other(tmp_path):
    docs, made = documents(100), small_tokenizer()  # more than one group
    written = store.write(tmp_path / "store", docs, made)
    ends = [*written.starts[1:], len(written)]
    assert written.names() == [document.name for document in docs]
    for document, start, end in zip(docs, written.starts, ends, strict=True):
        tokens = written.tokens[start:end].tolist()
        assert tokens[0] == made.bos_id
        assert tokens[-1] == made.eos_id
        assert made.decode(tokens[1:-1]) == document.text


def test_the_index_counts_what_is_there(tmp_path):
    docs = documents(30)
    written = store.write(tmp_path / "store", docs, small_tokenizer(), measure_xz=True)
    data = (tmp_path / "store" / "tokens.bin").read_bytes()
    whole = "".join(document.text for document in docs).encode()
    assert written.index == store.Index(
        dtype="<u2",
        tokens=len(data) // 2,
        documents=30,
        text_bytes=len(whole),
        xz_bytes=len(lzma.compress(whole, preset=9)),
        sha256=hashlib.sha256(data).hexdigest(),
    )
    assert make_store(tmp_path / "other", docs).index.xz_bytes is None


@pytest.mark.parametrize(("vocabulary", "size"), [(1 << 16, 2), ((1 << 16) + 1, 4)])
def test_ids_take_two_bytes_where_they_fit_and_four_elsewhere(tmp_path, vocabulary, size):
    words = {f"w{i}": i for i in range(vocabulary)}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w0"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    last = f"w{vocabulary - 1}"
    written = store.write(tmp_path / "store", [Document("a", f"w5 {last}")], Tokenizer(backend, "w1", last))
    assert written.tokens.itemsize == size
    assert written.tokens.tolist() == [1, 5, vocabulary - 1, vocabulary - 1]


def test_names_stay_one_for_each_document_whatever_they_hold(tmp_path):
    odd = ["a\nb", "c\rd", "e\N{LINE SEPARATOR}f\x0c\x85", "", "last"]
    written = make_store(tmp_path, [Document(name, "text") for name in odd])
    assert written.names() == ["a b", *odd[1:]]


def test_an_interrupted_write_leaves_nothing_under_the_name(tmp_path, monkeypatch):
    made = small_tokenizer()

    def fails(self, texts):
        yield [5, 6, 7]
        raise KeyboardInterrupt

    monkeypatch.setattr(Tokenizer, "encode_batch", fails)
    with pytest.raises(KeyboardInterrupt):
        store.write(tmp_path / "store", documents(3), made)
    assert not (tmp_path / "store").exists()
    monkeypatch.undo()
    # The leftovers do not get into the next attempt.
    again = store.write(tmp_path / "store", documents(3), made)
    assert again.names() == [document.name for document in documents(3)]
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_the_index_is_written_last(tmp_path, monkeypatch):
    """Even a reader of the unfinished directory would not take it for whole."""
    monkeypatch.setattr(np, "save", lambda *args, **kwargs: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        make_store(tmp_path)
    for leftover in tmp_path.iterdir():
        with pytest.raises(UserError, match="not a complete token store"):
            TokenStore(leftover)


def test_truncated_tokens_are_refused_by_name(tmp_path):
    directory = make_store(tmp_path).directory
    file = directory / "tokens.bin"
    file.write_bytes(file.read_bytes()[:-2])
    with pytest.raises(UserError, match=r"store/tokens\.bin has \d+ bytes, not those of \d+ tokens"):
        TokenStore(directory)


@pytest.mark.parametrize("name", ["index.json", "starts.npy", "tokens.bin"])
def test_a_missing_file_is_refused(tmp_path, name):
    directory = make_store(tmp_path).directory
    (directory / name).unlink()
    with pytest.raises(UserError, match="not a complete token store"):
        TokenStore(directory)


@pytest.mark.parametrize("name", ["index.json", "starts.npy"])
@pytest.mark.parametrize("kept", [0.0, 0.5])
def test_a_truncated_index_is_refused(tmp_path, name, kept):
    directory = make_store(tmp_path).directory
    content = (directory / name).read_bytes()
    (directory / name).write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(UserError, match="not a complete token store"):
        TokenStore(directory)


def test_an_index_of_another_version_is_refused(tmp_path):
    directory = make_store(tmp_path).directory
    (directory / "index.json").write_text(json.dumps({"tokens": 3}))
    with pytest.raises(UserError, match="not a complete token store"):
        TokenStore(directory)


def test_a_store_offers_what_every_source_of_tokens_does(tmp_path):
    docs = documents(20)
    made: Tokens = make_store(tmp_path, docs)
    read = made.read(3, 40)
    assert (read.dtype, read.tolist()) == (np.int32, TokenStore(tmp_path / "store").tokens[3:40].tolist())
    assert made.counted(0, 10) is None
    assert [made.name(i) for i in range(20)] == [document.name for document in docs]
    assert made.where == str(tmp_path / "store")
    assert made.text_bytes == sum(len(document.text.encode()) for document in docs)
    print_ = json.loads(json.dumps(made.fingerprint))
    assert (print_["documents"], print_["tokens"]) == (20, len(made))
    changed = [*docs[:-1], Document(docs[-1].name, docs[-1].text[::-1])]
    assert make_store(tmp_path / "other", docs).fingerprint == made.fingerprint
    assert make_store(tmp_path / "changed", changed).fingerprint != made.fingerprint


def test_a_file_that_is_cut_short_while_it_is_read_is_an_error_and_no_crash(tmp_path):
    made = make_store(tmp_path)
    whole = made.read(0, len(made))
    with open(made.directory / "tokens.bin", "r+b") as file:
        file.truncate(100)
    np.testing.assert_array_equal(made.read(0, 50), whole[:50])
    with pytest.raises(UserError, match=r"tokens\.bin ended early, at byte 100; restore it"):
        made.read(40, 60)
