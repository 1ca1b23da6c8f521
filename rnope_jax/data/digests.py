"""A number for the contents of a document: equal documents have equal ones, whatever they are called."""

import hashlib


class Digest:
    """Of a document whose text comes in pieces."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=8)

    def update(self, text: bytes, counted: bool = True) -> None:
        self._hash.update(text)
        if not counted:
            self._hash.update(b"\0")  # the same text as prompt and as response are two things

    def value(self) -> int:
        """64 bits, evenly spread."""
        return int.from_bytes(self._hash.digest(), "little")


def digest(text: str) -> int:
    """The digest of a document that is one text."""
    made = Digest()
    made.update(text.encode())
    return made.value()
