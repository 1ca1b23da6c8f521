"""The text in which facts are hidden."""

from pathlib import Path
from pydoc_data.topics import topics

from rnope_jax.errors import UserError


def read_haystack(path: Path | None) -> str:
    """The text of a file, or, for None, the Python language reference: prose that every machine has.

    Raises:
      UserError: if the file cannot be read, is not UTF-8 text or is empty.
    """
    if path is None:
        return "\n\n".join(topics[name] for name in sorted(topics))
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"haystack: {path} is not UTF-8 text ({error.reason} at byte {error.start})") from error
    except OSError as error:
        raise UserError(f"haystack: cannot read {path}: {error.strerror}") from error
    if not text.strip():
        raise UserError(f"haystack: {path} holds no text")
    return text
