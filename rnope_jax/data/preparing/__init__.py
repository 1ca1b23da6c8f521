"""Preparing a corpus: its files become token files with an index, by several processes or several machines.

OUT/plan.json          what is prepared, and how it is divided into units (`plan.py`)
OUT/tokenizer/         the tokenizer
OUT/parts/000000/      what one unit became (`part.py`)
OUT/starts.bin         where each document starts, in tokens, 64 bits each
OUT/quarantine.jsonl   the records that could not be used: file, line, reason
OUT/index.json         counts and checksums of all of it; written last (`merging.py`)

A part appears under its name only when it is complete, and depends on its input alone. So what is there
after a kill is used, and the result is the same, byte for byte, by one process or by hundreds.
"""

from rnope_jax.data.preparing.merging import verify
from rnope_jax.data.preparing.plan import Options, texts
from rnope_jax.data.preparing.prepare import Job, merge, prepare
from rnope_jax.data.preparing.tolerance import Tolerance, TooManyBad
from rnope_jax.data.preparing.workers import Progress

__all__ = ["Job", "Options", "Progress", "Tolerance", "TooManyBad", "merge", "prepare", "texts", "verify"]
