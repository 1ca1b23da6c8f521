"""Other programs' files: export to and import from Hugging Face files, GGUF."""

from rnope_jax.interop.exporting import Exported, export
from rnope_jax.interop.gguf import export_gguf
from rnope_jax.interop.importing import import_directory
from rnope_jax.interop.source import Source, open_source

__all__ = ["Exported", "Source", "export", "export_gguf", "import_directory", "open_source"]
