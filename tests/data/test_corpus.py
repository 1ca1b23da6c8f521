"""The data of a run from records, prepared directories and token files."""

import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rnope_jax import data
from rnope_jax.config import DataConfig
from rnope_jax.data import preparing, token_files, tokenizer
from rnope_jax.errors import UserError
from tests.data.corpora import small_tokenizer, texts, write_corpus
from tests.data.preparing.corpora import prepared, write_lines
from tests.helpers import tiny_config, tiny_model


def config(*corpus, **settings):
    return tiny_config(model=tiny_model(vocab_size=300), data=DataConfig(corpus=tuple(map(str, corpus)), **settings))


def prepare(config, path):
    said = []
    return data.prepare(config, path, said.append), said


def all_names(made):
    parts = (made.train[0].stores[0], made.held_out)
    return [{part.name(i) for i in range(len(part.starts))} for part in parts]


def all_documents(tokens):
    ends = [*tokens.starts[1:], len(tokens)]
    return [
        small_tokenizer().decode(tokens.read(int(a), int(b)).tolist()) for a, b in zip(tokens.starts, ends, strict=True)
    ]


@pytest.fixture
def given(tmp_path):
    small_tokenizer().save(tmp_path / "tokenizer")
    return str(tmp_path / "tokenizer")


@pytest.fixture
def records(tmp_path):
    return write_lines(tmp_path / "a.jsonl", [{"text": text} for text in texts(60)])


def test_records_are_prepared_for_the_run_and_divided(records, tmp_path, given):
    made, said = prepare(config(records, tokenizer=given), tmp_path / "run")
    train, held_out = all_names(made)
    assert train | held_out == {f"{records}:{i}" for i in range(1, 61)}
    assert not train & held_out
    found = all_documents(made.train[0].stores[0]) + all_documents(made.held_out)
    assert sorted(found) == sorted(texts(60))
    assert any("records: 60 documents" in line for line in said)
    records.unlink()  # it is not needed any more
    again, said = prepare(config(records, tokenizer=given), tmp_path / "run")
    assert said == []
    assert again.fingerprint == made.fingerprint


def test_a_tokenizer_is_trained_on_records_that_are_not_held_out(tmp_path):
    found = texts(300)
    write_lines(tmp_path / "a.jsonl", [{"text": text} for text in found[:150]])
    pq.write_table(pa.table({"text": found[150:]}), tmp_path / "b.parquet")
    settings = config(tmp_path / "a.jsonl", tmp_path / "b.parquet", held_out_fraction=0.2)
    made, _ = prepare(settings, tmp_path / "run")
    held_out = set(all_documents_of(made))
    assert held_out
    changed = ["qqqq xxxx" * 50 if text in held_out else text for text in found]
    trained = tokenizer.train([text for text in found if text not in held_out], 300)
    assert made.tokenizer.backend.to_str() == trained.backend.to_str()
    assert changed != found


def all_documents_of(made):
    tokens = made.held_out
    ends = [*tokens.starts[1:], len(tokens)]
    return [
        made.tokenizer.decode(tokens.read(int(a), int(b)).tolist()) for a, b in zip(tokens.starts, ends, strict=True)
    ]


def test_prepared_data_are_read_where_they_lie_with_their_tokenizer(records, tmp_path):
    prepared(tmp_path / "out", records)
    made, _ = prepare(config(tmp_path / "out"), tmp_path / "run")
    assert made.tokenizer.fingerprint == small_tokenizer().fingerprint
    assert not list((tmp_path / "run" / "data").rglob("*.bin"))
    train, held_out = all_names(made)
    assert train | held_out == {f"{records}:{i}" for i in range(1, 61)}
    assert made.held_out.text_bytes == sum(len(text.encode()) for text in all_documents(made.held_out))
    data.check(config(tmp_path / "out"))


def test_how_data_were_prepared_does_not_matter_to_the_division(records, tmp_path):
    prepared(tmp_path / "one", records)
    prepared(tmp_path / "two", records, part_bytes=500, shard_tokens=100)
    one, two = (prepare(config(tmp_path / name), tmp_path / f"run {name}")[0] for name in ("one", "two"))
    assert all_names(one) == all_names(two)
    assert all_documents(one.held_out) == all_documents(two.held_out)


def test_prepared_data_of_another_tokenizer_are_refused(records, tmp_path, given):
    prepared(tmp_path / "out", records, made_with=tokenizer.train(["abc"], 280))
    for attempt in (data.check, lambda settings: prepare(settings, tmp_path / "run")):
        with pytest.raises(
            UserError, match=r"out was prepared with another tokenizer.*data\.tokenizer to .*out/tokenizer"
        ):
            attempt(config(tmp_path / "out", tokenizer=given))
    prepare(config(tmp_path / "out"), tmp_path / "other")


def test_unfinished_and_damaged_data_are_refused_before_anything_is_written(records, tmp_path, given):
    prepared(tmp_path / "out", records)
    settings = config(tmp_path / "out", tokenizer=given)
    shard = next((tmp_path / "out").rglob("tokens-*.bin"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-2])
    with pytest.raises(UserError, match=r"tokens-0000\.bin has \d+ bytes"):
        data.check(settings)
    shard.write_bytes(whole)
    (tmp_path / "out" / "index.json").unlink()
    with pytest.raises(UserError, match="is not complete"):
        data.check(settings)
    assert not (tmp_path / "run").exists()


def test_a_run_notices_that_prepared_data_changed_under_it(records, tmp_path):
    prepared(tmp_path / "out", records)
    settings = replace(config(tmp_path / "out"), run_dir=str(tmp_path / "run"))
    made, _ = prepare(settings, tmp_path / "run")
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(UserError, match="out"):
        data.check(settings)
    write_lines(records, [{"text": text} for text in texts(59)])
    prepared(tmp_path / "out", records)
    data.check(settings)
    assert prepare(settings, tmp_path / "run")[0].fingerprint != made.fingerprint


def token_file(path, found):
    made = small_tokenizer()
    tokens = [token for text in found for token in (*made.encode(text), made.eos_id)]
    path.write_bytes(np.array(tokens, "<u2").tobytes())
    return path


def test_token_files_need_a_tokenizer_and_are_read_where_they_lie(tmp_path, given):
    path = token_file(tmp_path / "a.bin", texts(50))
    with pytest.raises(UserError, match=r"data\.tokenizer = None: set it to the tokenizer that .*a\.bin was made with"):
        data.check(config(path))
    settings = config(path, tokenizer=given)
    made, said = prepare(settings, tmp_path / "run")
    assert len(said) == 1
    found = all_documents(made.train[0].stores[0]) + all_documents(made.held_out)
    assert sorted(found) == sorted(texts(50))
    assert made.held_out.text_bytes == sum(len(text.encode()) for text in all_documents(made.held_out))
    again, said = prepare(settings, tmp_path / "run")
    assert said == []
    assert again.fingerprint == made.fingerprint


def test_sources_of_all_kinds_are_one_corpus(records, tmp_path, given):
    write_corpus(tmp_path / "texts", 20, seed=1)
    write_lines(tmp_path / "texts" / "more.jsonl", [{"text": text} for text in texts(15, seed=2)])
    prepared(tmp_path / "out", write_lines(tmp_path / "b.jsonl", [{"text": text} for text in texts(30, seed=3)]))
    token_file(tmp_path / "c.bin", texts(25, seed=4))
    corpus = (records, tmp_path / "texts", tmp_path / "out", tmp_path / "c.bin")
    made, _ = prepare(config(*corpus, tokenizer=given, suffixes=(".txt", ".jsonl")), tmp_path / "run")
    found = all_documents(made.train[0].stores[0]) + all_documents(made.held_out)
    wanted = [*texts(60), *texts(20, seed=1), *texts(15, seed=2), *texts(30, seed=3), *texts(25, seed=4)]
    assert sorted(found) == sorted(wanted)
    assert made.held_out.text_bytes == sum(len(text.encode()) for text in all_documents(made.held_out))


def test_what_is_held_out_is_not_learned_from_in_another_stage(tmp_path, given):
    found = texts(80)
    one = write_lines(tmp_path / "a.jsonl", [{"text": text} for text in found])
    folder = tmp_path / "texts"
    folder.mkdir()
    for i, text in enumerate(found):
        (folder / f"{i}.txt").write_text(text)
    copy = write_lines(tmp_path / "b.jsonl", [{"text": text} for text in reversed(found)])
    prepared(tmp_path / "out", copy)
    for first, second in ((one, folder), (folder, one), (one, tmp_path / "out"), (folder, tmp_path / "out")):
        settings = config(first, tokenizer=given, held_out_fraction=0.3)
        stages = (*settings.stages, replace(settings.stages[0], name="other", corpus=(str(second),)))
        made, _ = prepare(replace(settings, stages=stages), tmp_path / f"run {first.name} {second.name}")
        measured = set(all_documents(made.held_out))
        assert measured
        learned = set(all_documents(made.train[1].stores[0]))
        assert learned
        assert not learned & measured


def test_bad_records_of_a_run_are_an_error_that_tells_where_to_put_them_aside(tmp_path, given):
    path = write_lines(tmp_path / "a.jsonl", [{"text": "x"}, b"{"])
    with pytest.raises(
        UserError, match=r"data\.corpus has bad records, such as .*a\.jsonl:2: is not JSON.*`rnope prepare`"
    ):
        prepare(config(path, tokenizer=given), tmp_path / "run")


def test_only_responses_count_in_a_run(tmp_path, given):
    pairs = [{"prompt": a, "response": b} for a, b in zip(texts(40), texts(40, seed=1), strict=True)]
    made, _ = prepare(config(write_lines(tmp_path / "a.jsonl", pairs), tokenizer=given), tmp_path / "run")
    tokens = made.held_out
    assert made.held_out.text_bytes == sum(
        len(pair["response"].encode())
        for i, pair in enumerate(pairs, 1)
        if f"{tmp_path}/a.jsonl:{i}" in all_names(made)[1]
    )
    flags = tokens.counted(0, len(tokens))
    assert 0 < flags.sum() < len(flags)


def test_damaged_tokens_of_a_run_are_noticed_when_it_begins(tmp_path, given):
    settings = config(write_corpus(tmp_path / "texts", 20), tokenizer=given)
    prepare(settings, tmp_path / "run")
    file = next((tmp_path / "run").rglob("train/tokens.bin"))
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"tokens\.bin is damaged"):
        prepare(settings, tmp_path / "run")


def test_work_on_records_that_was_interrupted_goes_on(records, tmp_path, given, monkeypatch):
    settings = config(records, tokenizer=given)
    monkeypatch.setattr(
        preparing.prepare.__globals__["Work"], "run", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        prepare(settings, tmp_path / "run")
    monkeypatch.undo()
    assert prepare(settings, tmp_path / "run")[0].fingerprint == prepare(settings, tmp_path / "other")[0].fingerprint


def test_names_of_token_files():
    from pathlib import Path

    assert token_files.is_token_file(Path("x.bin"))
    assert not token_files.is_token_file(Path("x.jsonl"))
