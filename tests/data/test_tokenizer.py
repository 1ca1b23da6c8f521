"""Text to tokens and back."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders

from rnope_jax.data import tokenizer
from rnope_jax.errors import UserError
from tests.data.corpora import small_tokenizer, texts

AWKWARD = [
    "",
    " ",
    "\n\n\t \r\n",
    "plain text",
    "naïve über 雨が降る 🙂👩‍👩‍👧 \N{COMBINING ACUTE ACCENT}",
    "\x00\x01\x7f\N{REPLACEMENT CHARACTER} end \N{REPLACEMENT CHARACTER}",
    "<|bos|>not a token<|eos|><|pad|>",
    "\N{BYTE ORDER MARK}a\N{LINE SEPARATOR}b\x85c",
    "".join(map(chr, [*range(0x20, 0xD800, 101), *range(0xE000, 0x110000, 9973)])),
]


@pytest.mark.parametrize("text", AWKWARD)
def test_any_text_comes_back(text):
    made = small_tokenizer()
    assert made.decode(made.encode(text)) == text


def test_texts_hold_no_special_tokens_whatever_they_say():
    made = small_tokenizer()
    special = {made.bos_id, made.eos_id, made.backend.token_to_id(tokenizer.PAD)}
    assert not special & set(made.encode("<|bos|> <|eos|> <|pad|>"))
    assert made.decode([made.bos_id, *made.encode("a"), made.eos_id]) == "a"


def test_training_gives_the_same_tokenizer_again_and_in_another_process():
    code = (
        "import sys; from rnope_jax.data import tokenizer; from tests.data.corpora import texts;"
        "sys.stdout.write(tokenizer.train(texts(50), 300).backend.to_str())"
    )
    # Another hash seed: an order taken from a set would show.
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    other = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    again = tokenizer.train(texts(50), 300)
    assert again.backend.to_str() == small_tokenizer().backend.to_str() == other.stdout


def test_a_trained_vocabulary_has_the_size_asked_for():
    assert small_tokenizer().vocab_size == 300


def test_a_vocabulary_without_room_for_every_byte_is_refused():
    with pytest.raises(UserError, match=r"model\.vocab_size = 258: a byte-level tokenizer needs at least 259"):
        tokenizer.train(["text"], 258)
    assert tokenizer.train(["text"], 259).vocab_size == 259


@pytest.mark.parametrize("text", AWKWARD)
def test_streaming_gives_the_same_text_as_decoding_at_once(text):
    made = small_tokenizer()
    tokens = made.encode(text)
    pieces = list(made.stream(tokens))
    assert "".join(pieces) == text
    # Nothing is shown that a later token changes: each piece extends the text so far.
    assert text.startswith("".join(pieces[:-1]))


def test_streaming_waits_for_the_last_byte_of_a_character():
    made = small_tokenizer()
    single = tokenizer.train(["x"], 259)  # one token per byte
    tokens = single.encode("a🙂b")
    assert len(tokens) == 6
    assert [piece for piece in single.stream(tokens) if piece] == ["a", "🙂", "b"]
    assert "".join(single.stream(tokens[:3])) == single.decode(tokens[:3])  # cut within the character
    rng = np.random.default_rng(0)
    for _ in range(20):
        noise = rng.integers(0, made.vocab_size, 40).tolist()
        assert "".join(made.stream(noise)) == made.decode(noise)


def by_bytes(decoder, first=()) -> tokenizer.Tokenizer:
    """A tokenizer with a token for each byte, and one for some words."""
    names = [tokenizer.PAD, tokenizer.BOS, tokenizer.EOS, *first, *(f"<0x{byte:02X}>" for byte in range(256))]
    backend = tokenizers.Tokenizer(tokenizers.models.BPE({name: i for i, name in enumerate(names)}, []))
    backend.add_special_tokens([tokenizer.PAD, tokenizer.BOS, tokenizer.EOS])
    backend.decoder = decoder
    return tokenizer.Tokenizer(backend, tokenizer.BOS, tokenizer.EOS)


@pytest.mark.parametrize("seed", range(8))
def test_streams_of_any_bytes_are_what_they_decode_to(seed):
    """Whole characters, characters cut anywhere, bytes that begin none."""
    rng = np.random.default_rng(seed)
    single = tokenizer.train(["x"], 259)
    special = [single.bos_id, single.eos_id, 5000]  # the last is no token at all
    ids = list(single.backend.get_vocab().values())
    for _ in range(30):
        tokens: list[int] = []
        while len(tokens) < 60:
            piece = single.encode("".join(rng.choice(list("aé雨🙂\N{REPLACEMENT CHARACTER}👩🏽\n "), 3)))
            cut = int(rng.integers(0, len(piece) + 1)) if rng.random() < 0.3 else len(piece)
            tokens += [*piece[:cut], *rng.choice(ids, rng.integers(0, 3)).tolist()]
            tokens += [int(rng.choice(special))] if rng.random() < 0.2 else []
        pieces = list(single.stream(tokens))
        assert "".join(pieces) == single.decode(tokens)


def test_streams_of_tokens_that_fall_back_to_bytes_are_what_they_decode_to():
    """How such a decoder shows a byte depends on the whole run of bytes around it; a leading space is left out."""
    decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    made = by_bytes(decoder, ["▁the", "▁", "river"])
    rng = np.random.default_rng(0)
    emoji = [made.backend.token_to_id(f"<0x{byte:02X}>") for byte in "🙂".encode()]
    for _ in range(100):
        tokens: list[int] = []
        for _ in range(12):
            tokens += [[1], [3], [4], [5], emoji, [int(rng.integers(6, 262))]][rng.integers(0, 6)]
        assert "".join(made.stream(tokens)) == made.decode(tokens)
    assert list(made.stream([3, *emoji, 3, 5]))[-3:] == ["🙂 the", "river", ""]


def test_the_work_of_a_stream_grows_with_its_length_only(monkeypatch):
    made = small_tokenizer()
    sizes, decode = [], made.decode
    monkeypatch.setattr(made, "decode", lambda tokens: sizes.append(len(tokens)) or decode(tokens))
    tokens = made.encode("the river 🙂 " * 100)
    list(made.stream(tokens))
    assert max(sizes) <= 5
    assert len(sizes) <= 2 * len(tokens) + 1


@pytest.mark.parametrize("separator", ["\n", ""])
def test_long_texts_are_worked_on_in_pieces_and_lose_nothing(monkeypatch, separator):
    monkeypatch.setattr(tokenizer, "PIECE", 64)
    made = small_tokenizer()
    text = separator.join(f"word {i} 🙂" for i in range(100))
    sizes = [len(piece) for piece in tokenizer.pieces(text)]
    assert max(sizes) <= 64
    assert len(sizes) > 10
    assert made.decode(made.encode(text)) == text
    batch = list(made.encode_batch([text, "", "short"]))
    assert batch == [made.encode(text), [], made.encode("short")]


def test_pieces_end_after_lines_where_there_are_lines(monkeypatch):
    monkeypatch.setattr(tokenizer, "PIECE", 30)
    pieces = list(tokenizer.pieces("0123456789\n" * 20))
    assert all(piece.endswith("\n") for piece in pieces[:-1])


def test_saved_tokenizers_load_as_they_were(tmp_path):
    made = small_tokenizer()
    made.save(tmp_path / "saved")
    for path in (tmp_path / "saved", tmp_path / "saved" / "tokenizer.json"):
        loaded = tokenizer.load(path)
        assert (loaded.bos_id, loaded.eos_id, loaded.vocab_size) == (made.bos_id, made.eos_id, made.vocab_size)
        assert loaded.encode(AWKWARD[4]) == made.encode(AWKWARD[4])
        assert loaded.encode("<|eos|>") == made.encode("<|eos|>")


def test_special_tokens_may_be_given_or_written_as_objects(tmp_path):
    small_tokenizer().save(tmp_path)
    settings = {"bos_token": {"content": "<|eos|>"}, "eos_token": "<|bos|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    swapped = tokenizer.load(tmp_path)
    assert (swapped.bos, swapped.eos) == ("<|eos|>", "<|bos|>")
    assert tokenizer.load(tmp_path, bos_token="<|pad|>").bos == "<|pad|>"


def test_a_tokenizer_alone_needs_its_special_tokens_named(tmp_path):
    small_tokenizer().save(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    with pytest.raises(UserError, match=r"data\.bos_token = None"):
        tokenizer.load(tmp_path)
    with pytest.raises(UserError, match=r"data\.eos_token = None"):
        tokenizer.load(tmp_path, bos_token="<|bos|>")
    assert tokenizer.load(tmp_path, "<|bos|>", "<|eos|>").bos_id == small_tokenizer().bos_id
    with pytest.raises(UserError, match="there is no token '<s>'"):
        tokenizer.load(tmp_path, "<s>", "<|eos|>")


@pytest.mark.parametrize("content", [b"", b"{}", b'{"version": "1.0"', b"\xff\xfe\x00"])
def test_an_unreadable_tokenizer_is_refused_by_name(tmp_path, content):
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(UserError, match=r"tokenizer\.json cannot be read"):
        tokenizer.load(tmp_path)


def test_a_missing_tokenizer_is_refused_by_name(tmp_path):
    with pytest.raises(UserError, match=r"tokenizer\.json does not exist"):
        tokenizer.load(tmp_path)


@pytest.mark.parametrize("content", [b"not json", b"[]", b"\xff\xfe"])
def test_unreadable_settings_are_refused_by_name(tmp_path, content):
    small_tokenizer().save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_bytes(content)
    with pytest.raises(UserError, match=r"tokenizer_config\.json is not a JSON object"):
        tokenizer.load(tmp_path)
