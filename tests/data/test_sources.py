"""Which files a corpus has, and which of them are held out."""

import os
import shutil
import sysconfig
from pathlib import Path

import pytest

from rnope_jax.config import DataConfig
from rnope_jax.data import sources
from rnope_jax.data.digests import digest
from rnope_jax.errors import UserError
from tests.data.corpora import write_corpus


def read(*corpus: object, **changes: object) -> sources.Split:
    return sources.read_split(tuple(str(entry) for entry in corpus), DataConfig(**changes))


def names(documents: tuple[sources.Document, ...]) -> set[str]:
    return {document.name for document in documents}


def test_the_standard_library_is_read_without_its_tests():
    assert DataConfig().corpus == ("stdlib",)
    split = read("stdlib")
    found = names(split.train) | names(split.held_out)
    assert {"dataclasses.py", "json/decoder.py", "asyncio/base_events.py"} <= found
    assert not [name for name in found if {"test", "tests", "site-packages", "idle_test"} & set(name.split("/"))]
    text = next(d.text for d in split.train + split.held_out if d.name == "dataclasses.py")
    assert text == Path(sysconfig.get_paths()["stdlib"], "dataclasses.py").read_text(encoding="utf-8")


def test_directories_are_searched_by_suffix_at_any_depth(tmp_path):
    for name in ("a.txt", "deep/er/b.md", "c.bin", "d.py", "txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"text of {name}")
    split = read(tmp_path)
    assert names(split.train) | names(split.held_out) == {"a.txt", "deep/er/b.md", "d.py"}
    split = read(tmp_path, suffixes=(".bin", "b.md"))
    assert names(split.train) | names(split.held_out) == {"c.bin", "deep/er/b.md"}


def test_a_listed_file_needs_no_known_suffix(tmp_path):
    (tmp_path / "notes").write_text("one\ntwo\nthree")
    assert names(read(tmp_path / "notes").train) == {"notes"}


def test_a_missing_entry_is_refused_by_name(tmp_path):
    write_corpus(tmp_path / "here")
    with pytest.raises(UserError, match="nowhere does not exist"):
        read(tmp_path / "here", tmp_path / "nowhere")


@pytest.mark.parametrize("content", [None, "", "  \n\t\n"])
def test_a_corpus_without_text_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "empty.txt").write_text(content)
    with pytest.raises(UserError, match=r"no text found.*\.txt"):
        read(tmp_path)


def test_a_listed_file_that_is_not_text_is_refused_by_name(tmp_path):
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1") + b" and more\n")
    with pytest.raises(UserError, match=r"latin\.txt is not UTF-8 text \(.* at byte 0\)"):
        read(tmp_path / "latin.txt")


def test_a_file_of_a_directory_that_is_not_text_is_left_out_and_reported(tmp_path):
    write_corpus(tmp_path, count=3)
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    split = read(tmp_path)
    assert split.skipped == (str(tmp_path / "latin.txt"),)
    assert len(split.train + split.held_out) == 3


def test_file_names_that_are_not_text_are_read_all_the_same(tmp_path):
    write_corpus(tmp_path, count=3)
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt")).write_text("fine inside")
    split = read(tmp_path)
    found = names(split.train + split.held_out)
    assert r"caf\xe9.txt" in found
    "".join(found).encode()  # every name can be written as UTF-8


def test_the_two_parts_are_disjoint_and_complete(tmp_path):
    files = {path.name: path.read_text() for path in write_corpus(tmp_path, count=60).iterdir()}
    split = read(tmp_path, held_out_fraction=0.3)
    assert {d.name: d.text for d in split.train + split.held_out} == files
    assert not names(split.train) & names(split.held_out)
    assert 8 <= len(split.held_out) <= 28  # 18 expected


@pytest.mark.parametrize(("fraction", "train", "held_out"), [(1e-9, 1, 1), (1 - 1e-9, 1, 1)])
def test_neither_part_is_ever_empty(tmp_path, fraction, train, held_out):
    write_corpus(tmp_path, count=5)
    split = read(tmp_path, held_out_fraction=fraction)
    assert len(split.train) >= train
    assert len(split.held_out) >= held_out


def test_growing_a_corpus_moves_no_file(tmp_path):
    write_corpus(tmp_path, count=40)
    before = read(tmp_path, held_out_fraction=0.2)
    for i in range(40):
        (tmp_path / f"new{i}.txt").write_text(f"new {i}")
    after = read(tmp_path, held_out_fraction=0.2)
    assert names(before.train) <= names(after.train)
    assert names(before.held_out) <= names(after.held_out)


def test_the_location_of_a_corpus_does_not_matter(tmp_path):
    write_corpus(tmp_path / "here", count=40)
    shutil.copytree(tmp_path / "here", tmp_path / "there" / "elsewhere")
    assert read(tmp_path / "here") == read(tmp_path / "there" / "elsewhere")


def test_a_single_file_is_divided_at_a_line(tmp_path):
    lines = [f"line {i}\n" for i in range(100)]
    (tmp_path / "one.txt").write_text("".join(lines))
    split = read(tmp_path / "one.txt", held_out_fraction=0.1)
    (train,), (held_out,) = split.train, split.held_out
    assert train.text + held_out.text == "".join(lines)
    assert train.text.endswith("\n")
    assert 5 <= held_out.text.count("\n") <= 11


@pytest.mark.parametrize("text", ["no line break at all", "first\nsecond", "a\n" + "b" * 100])
def test_a_single_file_without_fitting_lines_is_divided_anyway(tmp_path, text):
    (tmp_path / "one.txt").write_text(text)
    split = read(tmp_path / "one.txt", held_out_fraction=0.1)
    (train,), (held_out,) = split.train, split.held_out
    assert train.text + held_out.text == text
    assert train.text.strip()
    assert held_out.text.strip()


def test_a_text_of_one_character_cannot_be_divided(tmp_path):
    (tmp_path / "one.txt").write_text("x")
    with pytest.raises(UserError, match=r"one\.txt is too short"):
        read(tmp_path / "one.txt")


def test_a_text_that_is_held_out_is_not_learned_from_under_another_name(tmp_path):
    """Overlapping entries, copies, and corpora of other stages must not leak what is measured."""
    part = tmp_path / "all" / "part"
    part.mkdir(parents=True)
    for number in range(30):
        (part / f"{number}.txt").write_text(f"text number {number}\n" * 3)

    whole = read(tmp_path / "all", part, held_out_fraction=0.3)
    held_out = {document.text for document in whole.held_out}
    assert held_out
    assert not held_out & {document.text for document in whole.train}

    stage = sources.read_split((str(part),), DataConfig(held_out_fraction=0.3), list(map(digest, held_out)))
    assert not held_out & {document.text for document in stage.train}
