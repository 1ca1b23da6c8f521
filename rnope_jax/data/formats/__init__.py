"""Files of texts and records: text, JSON lines, Parquet, ArrayRecord; the first two also compressed."""

from rnope_jax.data.formats.files import SUFFIXES, Format, format_of, is_plain_text
from rnope_jax.data.formats.item import Bad, Item, Limits, LongText

__all__ = ["SUFFIXES", "Bad", "Format", "Item", "Limits", "LongText", "format_of", "is_plain_text"]
