"""The data of a run: made once, then used as it is."""

import json
from dataclasses import replace

import numpy as np
import pytest

from rnope_jax import data
from rnope_jax.config import DataConfig
from rnope_jax.errors import UserError
from tests.data.corpora import small_tokenizer, write_corpus
from tests.helpers import tiny_config, tiny_model


@pytest.fixture
def config(tmp_path):
    corpus = write_corpus(tmp_path / "corpus", count=30)
    return tiny_config(model=tiny_model(vocab_size=300), data=DataConfig(corpus=(str(corpus),)))


def prepare(config, path):
    said = []
    return data.prepare(config, path, said.append), said


def test_what_is_there_is_used_whatever_has_become_of_the_files(config, tmp_path):
    first, said = prepare(config, tmp_path / "run")
    assert len(said) == 3
    for file in (tmp_path / "corpus").iterdir():
        file.unlink()
    second, said = prepare(config, tmp_path / "run")
    assert said == []
    np.testing.assert_array_equal(first.train[0].stores[0].tokens, second.train[0].stores[0].tokens)
    assert first.held_out.index == second.held_out.index
    assert second.tokenizer.encode("river stone") == first.tokenizer.encode("river stone")


def test_two_preparations_of_the_same_text_are_equal(config, tmp_path):
    indices = [
        (made.train[0].stores[0].index, made.held_out.index, made.tokenizer.backend.to_str())
        for made in (prepare(config, tmp_path / name)[0] for name in "ab")
    ]
    assert indices[0] == indices[1]


def test_only_the_held_out_text_is_compressed_for_comparison(config, tmp_path):
    made, _ = prepare(config, tmp_path / "run")
    assert made.held_out.index.xz_bytes
    assert made.train[0].stores[0].index.xz_bytes is None


def test_the_tokenizer_does_not_learn_from_held_out_text(config, tmp_path):
    made, _ = prepare(config, tmp_path / "run")
    held_out = made.held_out.names()
    for name in held_out:
        file = tmp_path / "corpus" / name
        file.write_text("qqqq xxxx " * 500)
    changed, _ = prepare(config, tmp_path / "other")
    assert changed.held_out.names() == held_out
    assert changed.tokenizer.backend.to_str() == made.tokenizer.backend.to_str()


def test_stages_share_a_corpus_or_have_their_own(config, tmp_path):
    other = write_corpus(tmp_path / "other", count=9, seed=1)
    first = config.stages[0]
    stages = (first, replace(first, name="again"), replace(first, name="own", corpus=(str(other),)))
    made, said = prepare(replace(config, stages=stages), tmp_path / "run")
    directories = [mixture.stores[0].directory for mixture in made.train]
    assert directories[0] == directories[1] != directories[2]
    assert set(made.train[2].stores[0].names()) <= {path.name for path in other.iterdir()}
    assert made.held_out.directory.parent == directories[0].parent
    assert len(said) == 5


def test_files_that_are_not_text_are_reported(config, tmp_path):
    (tmp_path / "corpus" / "bad.txt").write_bytes(b"\xff\xfe")
    _, said = prepare(config, tmp_path / "run")
    assert any("left out 1 files" in line and "bad.txt" in line for line in said)


def test_a_stage_with_too_little_text_is_found_before_training(config, tmp_path):
    (tmp_path / "short.txt").write_text("one\ntwo")
    last = replace(config.stages[0], name="last", corpus=(str(tmp_path / "short.txt"),), sequence_length=64)
    with pytest.raises(UserError, match="too few for one row of 64"):
        prepare(replace(config, stages=(*config.stages, last)), tmp_path / "run")


def test_a_given_tokenizer_is_copied_into_the_run(config, tmp_path):
    small_tokenizer().save(tmp_path / "given")
    config = replace(config, data=replace(config.data, tokenizer=str(tmp_path / "given")))
    data.check(config)
    made, _ = prepare(config, tmp_path / "run")
    assert made.tokenizer.backend.to_str() == small_tokenizer().backend.to_str()
    (tmp_path / "given" / "tokenizer.json").unlink()
    again, _ = prepare(config, tmp_path / "run")
    assert again.tokenizer.bos_id == small_tokenizer().bos_id


def test_a_vocabulary_that_does_not_fit_the_tokenizer_is_refused(config, tmp_path):
    small_tokenizer().save(tmp_path / "given")
    settings = replace(config.data, tokenizer=str(tmp_path / "given"))
    small = replace(config, model=tiny_model(vocab_size=299), data=settings)
    for attempt in (data.check, lambda config: data.prepare(config, tmp_path / "run")):
        with pytest.raises(UserError, match=r"model\.vocab_size = 299: the tokenizer has 300 tokens"):
            attempt(small)
    assert not (tmp_path / "run").exists()
    data.check(replace(small, model=tiny_model(vocab_size=301)))


def test_a_vocabulary_too_small_for_bytes_is_refused(config):
    with pytest.raises(UserError, match=r"model\.vocab_size = 258"):
        data.check(replace(config, model=tiny_model(vocab_size=258)))


def test_missing_inputs_are_found_before_anything_is_written(config, tmp_path):
    with pytest.raises(UserError, match="nowhere does not exist"):
        data.check(replace(config, data=DataConfig(corpus=("nowhere",))))
    with pytest.raises(UserError, match="nothing does not exist"):
        data.check(replace(config, stages=(replace(config.stages[0], corpus=("nothing",)),)))
    with pytest.raises(UserError, match=r"absent/tokenizer.json does not exist|absent does not exist"):
        data.check(replace(config, data=replace(config.data, tokenizer=str(tmp_path / "absent"))))
    data.check(config)
    assert {path.name for path in tmp_path.iterdir()} == {"corpus"}


def test_the_tokenizer_of_a_run_is_written_for_other_readers(config, tmp_path):
    prepare(config, tmp_path / "run")
    settings = json.loads((tmp_path / "run" / "tokenizer" / "tokenizer_config.json").read_text())
    assert (settings["bos_token"], settings["eos_token"], settings["pad_token"]) == ("<|bos|>", "<|eos|>", "<|pad|>")
