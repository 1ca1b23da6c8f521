"""What a record means: a text, a prompt with its response, or a conversation, as segments to be tokenized.

With a tokenizer that has Cohere's turn tokens, a turn is

    <|START_OF_TURN_TOKEN|><|USER_TOKEN|>TEXT<|END_OF_TURN_TOKEN|>

with <|SYSTEM_TOKEN|> and <|CHATBOT_TOKEN|> for the other two roles; prompt and response are a user's
and a chatbot's turn. With any other tokenizer a response follows its prompt as it is, and a conversation is

    SYSTEM TEXT, blank line, "User:" line break TEXT, blank line, "Assistant:" line break TEXT, end token

Only what an assistant says counts, with the token that ends it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from rnope_jax.data.formats import Bad, Limits, LongText
from rnope_jax.data.formats.item import kind
from rnope_jax.data.tokenizer import Tokenizer, pieces


class Segment(NamedTuple):
    """A part of a document."""

    content: str | int | LongText
    """Text, or a token that no text becomes."""
    counted: bool = True
    """Whether it is to be predicted."""


_TURN, _END = "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>"
_ROLES = {"system": "<|SYSTEM_TOKEN|>", "user": "<|USER_TOKEN|>", "assistant": "<|CHATBOT_TOKEN|>"}

_PLAIN = {"system": "", "user": "User:\n", "assistant": "Assistant:\n"}


@dataclass(frozen=True)
class Template:
    """How turns are written in the tokens of one tokenizer."""

    bos: int
    eos: int
    turn: int | None
    """None for a tokenizer without turn tokens."""
    end: int
    roles: Mapping[str, int]

    def document(self, value: str | LongText | dict[str, Any], limits: Limits) -> list[Segment] | Bad | None:
        """Segments of a record, from its first token to its last; None if it has no text."""
        found = value if isinstance(value, str | LongText) else self._record(value, limits)
        if isinstance(found, str):
            found = [Segment(found)] if found else None
        elif isinstance(found, LongText):
            found = [Segment(found)]
        if found is None or isinstance(found, Bad):
            return found
        ended = found[-1].content == self.end
        return [Segment(self.bos, found[0].counted), *found, *([] if ended else [Segment(self.eos, found[-1].counted)])]

    def _record(self, record: dict[str, Any], limits: Limits) -> str | list[Segment] | Bad | None:
        name = limits.text_field
        if name in record:
            return record[name] if isinstance(record[name], str) else _wrong(name, record[name])
        if "messages" in record:
            return self._conversation(record["messages"])
        if "prompt" in record and "response" in record:
            for field in ("prompt", "response"):
                if not isinstance(record[field], str):
                    return _wrong(field, record[field])
            return self._pair(record["prompt"], record["response"])
        fields = ", ".join(map(repr, list(record)[:8])) or "none"
        return Bad(f"has no field {name!r}, nor messages, nor prompt and response; its fields are {fields}")

    def _pair(self, prompt: str, response: str) -> list[Segment] | Bad | None:
        if not response:
            return None
        if self.turn is not None:
            return [*self._turn("user", prompt), *self._turn("assistant", response)]
        return [Segment(prompt, False), Segment(response), Segment(self.eos)]

    def _conversation(self, messages: Any) -> list[Segment] | Bad | None:
        if not isinstance(messages, list):
            return _wrong("messages", messages, "an array of messages")
        made: list[Segment] = []
        said = False
        for number, message in enumerate(messages):
            if not isinstance(message, dict):
                return _wrong(f"messages[{number}]", message, "an object with role and content")
            role, content = message.get("role"), message.get("content")
            if role not in _ROLES:
                return Bad(f"messages[{number}].role is {role!r}, not one of {', '.join(_ROLES)}")
            if not isinstance(content, str):
                return _wrong(f"messages[{number}].content", content)
            made += self._turn(role, content)
            said |= role == "assistant" and content != ""
        return made if said else None

    def _turn(self, role: str, text: str) -> list[Segment]:
        counted = role == "assistant"
        if self.turn is not None:
            begin = [Segment(self.turn, False), Segment(self.roles[role], False)]
            return [*begin, Segment(text, counted), Segment(self.end, counted)]
        begin = [Segment(_PLAIN[role], False)] if _PLAIN[role] else []
        return [*begin, Segment(text, counted), Segment(self.eos) if counted else Segment("\n\n", False)]


def template(tokenizer: Tokenizer) -> Template:
    """The template of a tokenizer."""
    ids = {name: tokenizer.backend.token_to_id(name) for name in (_TURN, _END, *_ROLES.values())}
    known = {name: number for name, number in ids.items() if number is not None}
    if len(known) < len(ids):
        return Template(tokenizer.bos_id, tokenizer.eos_id, None, tokenizer.eos_id, {})
    roles = {role: known[name] for role, name in _ROLES.items()}
    return Template(tokenizer.bos_id, tokenizer.eos_id, known[_TURN], known[_END], roles)


def learned_from(value: object, limits: Limits) -> Iterator[str]:
    """The texts of a record, for a tokenizer to be trained on; none where it is bad."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, LongText):
        yield from value.pieces()
    elif isinstance(value, dict):
        turns = value.get("messages")
        inner = [turn.get("content") for turn in turns if isinstance(turn, dict)] if isinstance(turns, list) else []
        found = [value.get(limits.text_field), value.get("prompt"), value.get("response"), *inner]
        yield from (text for text in found if isinstance(text, str))


def texts(segment: Segment) -> Iterator[str]:
    """The text of a segment in pieces that can be tokenized at once."""
    if isinstance(segment.content, str):
        yield from pieces(segment.content)
    elif isinstance(segment.content, LongText):
        yield from segment.content.pieces()


def _wrong(field: str, value: object, wanted: str = "a text") -> Bad:
    return Bad(f"field {field!r} is {kind(value)}, not {wanted}")
