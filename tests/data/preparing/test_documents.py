"""What records become: their tokens, the tokens that count, their names."""

import gzip

import numpy as np
import pytest
import tokenizers

from rnope_jax.data import Tokenizer, tokenizer
from rnope_jax.data.formats import Limits
from rnope_jax.data.preparing import part
from rnope_jax.data.preparing.examples import template
from rnope_jax.data.preparing.part import _encodable
from tests.data.corpora import small_tokenizer, texts
from tests.data.preparing.corpora import chat_tokenizer, documents, expected, prepared, write_lines

CHAT = [
    {"role": "system", "content": "stone"},
    {"role": "user", "content": "river one"},
    {"role": "assistant", "content": "light"},
    {"role": "user", "content": "two"},
    {"role": "assistant", "content": "zero über"},
]


def counted(tokens, document):
    start = tokens.starts[document]
    end = [*tokens.starts[1:], len(tokens)][document]
    return tokens.read(start, end)[tokens.counted(start, end)].tolist()


@pytest.mark.parametrize("part_bytes", [300, 1 << 20])
def test_documents_come_in_the_order_of_the_files_and_lines(tmp_path, part_bytes):
    found = texts(30)
    write_lines(tmp_path / "in" / "b.jsonl", [{"text": text, "id": 1} for text in found[:20]])
    (tmp_path / "in" / "a.txt").write_text(found[20])
    (tmp_path / "in" / "c.txt.gz").write_bytes(gzip.compress(found[21].encode()))
    (tmp_path / "in" / "left.bin").write_bytes(b"\xff")
    made = prepared(tmp_path / "out", tmp_path / "in", part_bytes=part_bytes)
    assert documents(made) == expected([found[20], *found[:20], found[21]])
    names = [made.name(number) for number in range(22)]
    folder = tmp_path / "in"
    assert names == [f"{folder}/a.txt", *(f"{folder}/b.jsonl:{i}" for i in range(1, 21)), f"{folder}/c.txt.gz"]
    assert made.counted(0, len(made)) is None
    assert made.text_bytes == sum(len(text.encode()) for text in found[:22])
    assert made.index["other_files"] == 1


def test_a_document_longer_than_a_shard_lies_in_several(tmp_path):
    found = ["river " * 200, "one", "stone " * 90]
    made = prepared(tmp_path / "out", write_lines(tmp_path / "a.jsonl", [{"text": t} for t in found]), shard_tokens=16)
    assert documents(made) == expected(found)
    assert len(list((tmp_path / "out").rglob("tokens-*.bin"))) == -(-len(made) // 16)
    whole = made.read(0, len(made))
    assert made.read(16, 16).tolist() == made.read(len(made), len(made)).tolist() == []
    for first in range(0, len(made), 13):
        np.testing.assert_array_equal(made.read(first, min(first + 40, len(made))), whole[first : first + 40])


def test_a_text_too_long_to_be_held_becomes_the_same_tokens(tmp_path, monkeypatch):
    monkeypatch.setattr(tokenizer, "PIECE", 40)
    found = "".join(texts(30))
    (tmp_path / "a.txt").write_text(found)
    made = prepared(tmp_path / "out", tmp_path / "a.txt", record_bytes=100)
    assert documents(made) == expected([found])
    assert prepared(tmp_path / "other", tmp_path / "a.txt").digests().tolist() == made.digests().tolist()


def test_only_responses_count(tmp_path):
    made_with = small_tokenizer()
    records = [{"prompt": "river", "response": "stone\n"}, {"text": "light"}, {"messages": CHAT}]
    made = prepared(tmp_path / "out", write_lines(tmp_path / "a.jsonl", records), shard_tokens=7)
    pair, text, chat = documents(made)
    end = made_with.eos_id
    assert pair == [made_with.bos_id, *made_with.encode("river"), *made_with.encode("stone\n"), end]
    assert counted(made, 0) == [*made_with.encode("stone\n"), end]
    assert counted(made, 1) == text
    said = "stone\n\nUser:\nriver one\n\nAssistant:\nlight", "User:\ntwo\n\nAssistant:\nzero über"
    assert [made_with.decode(part) for part in split(chat, end)] == list(said)
    assert counted(made, 2) == [*made_with.encode("light"), end, *made_with.encode("zero über"), end]
    assert made.text_bytes == len("stone\n" + "light" + "light" + "zero über") + 1


def test_documents_before_the_first_prompt_count_as_a_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(part, "_PIECES", 3)  # the prompt comes long after the first tokens were written
    records = [*({"text": text} for text in texts(20)), {"prompt": "river", "response": "stone"}, {"text": "light"}]
    made = prepared(tmp_path / "out", write_lines(tmp_path / "a.jsonl", records), shard_tokens=50)
    found = documents(made)
    assert found[:20] == expected(texts(20))
    assert [counted(made, number) for number in (*range(20), 21)] == [*found[:20], found[21]]
    assert counted(made, 20) == [*small_tokenizer().encode("stone"), small_tokenizer().eos_id]


def split(tokens, end):
    parts, part = [], []
    for token in tokens:
        if token == end:
            parts.append(part)
            part = []
        else:
            part.append(token)
    return parts


def test_turn_tokens_are_used_where_the_tokenizer_has_them(tmp_path):
    made_with = chat_tokenizer()
    ids = made_with.backend.token_to_id
    records = [{"messages": CHAT[:3]}, {"prompt": "<|USER_TOKEN|>", "response": "one"}, {"text": "two"}]
    made = prepared(tmp_path / "out", write_lines(tmp_path / "a.jsonl", records), made_with=made_with)
    chat, pair, text = documents(made)
    turn, end = ids("<|START_OF_TURN_TOKEN|>"), ids("<|END_OF_TURN_TOKEN|>")
    system, user, chatbot = (ids(f"<|{name}_TOKEN|>") for name in ("SYSTEM", "USER", "CHATBOT"))
    encode = made_with.encode
    assert chat == [
        *(ids("<|bos|>"), turn, system, *encode("stone"), end),
        *(turn, user, *encode("river one"), end, turn, chatbot, *encode("light"), end),
    ]
    assert counted(made, 0) == [*encode("light"), end]
    # What only looks like a turn token is text.
    assert pair.count(user) == 1
    assert counted(made, 1) == [*encode("one"), end]
    assert text == [ids("<|bos|>"), *encode("two"), end]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"body": "x"}, r"no field 'text', nor messages, nor prompt and response; its fields are 'body'"),
        ({"text": None}, "'text' is null"),
        ({"text": 3}, "'text' is a number, not a text"),
        ({"text": ["x"]}, "'text' is an array"),
        ({"text": "\ud800"}, "half of a surrogate pair"),
        ({"prompt": 1, "response": "x"}, "'prompt' is a number"),
        ({"prompt": "x", "response": None}, "'response' is null"),
        ({"prompt": "x"}, "no field"),
        ({"messages": "x"}, "'messages' is a text, not an array"),
        ({"messages": ["x"]}, r"'messages\[0\]' is a text"),
        ({"messages": [{"role": "king", "content": "x"}]}, "role is 'king'"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, r"content' is an array"),
    ],
)
def test_a_record_of_another_form_is_bad(record, reason):
    found = _encodable(template(small_tokenizer()).document(record, Limits(100, "text")))
    assert reason.replace("\\", "") in found.reason


@pytest.mark.parametrize(
    "record", [{"text": ""}, {"prompt": "x", "response": ""}, {"messages": []}, {"messages": CHAT[:2]}]
)
def test_a_record_with_nothing_to_learn_is_empty(record):
    assert template(small_tokenizer()).document(record, Limits(100, "text")) is None


def test_another_field_may_hold_the_text(tmp_path):
    made = prepared(tmp_path / "out", write_lines(tmp_path / "a.jsonl", [{"body": "x"}]), text_field="body")
    assert documents(made) == expected(["x"])


def test_tokens_take_four_bytes_where_they_must(tmp_path):
    words = {f"w{i}": i for i in range(70_000)}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w0"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    (tmp_path / "a.txt").write_text("w69999 w5")
    made = prepared(tmp_path / "out", tmp_path / "a.txt", made_with=Tokenizer(backend, "w1", "w2"))
    assert documents(made) == [[1, 69_999, 5, 2]]
    assert made.read(0, 4).dtype == np.int32
