"""The text in which facts are hidden."""

from pydoc_data.topics import topics

from rnope_jax.config import DataConfig
from rnope_jax.data.sources import read_documents
from rnope_jax.errors import UserError


def read_haystack(given: str | None) -> str:
    """The text of a file, of a directory or of "stdlib"; for None, the Python language reference.

    That is prose of which every machine has enough for 128k tokens without repeating it.

    Raises:
      UserError: if it cannot be read, or is no text.
    """
    if given is None:
        return "\n\n".join(topics[name] for name in sorted(topics))
    documents, _ = read_documents([given], DataConfig().suffixes, "haystack")
    if not documents:
        raise UserError(f"haystack: there is no text in {given}; give another --haystack")
    return "\n\n".join(document.text for document in documents)
