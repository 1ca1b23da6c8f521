"""Everything that a run has recorded, on one HTML page that needs no network."""

from rnope_jax.report.page import page
from rnope_jax.report.record import Record, read

__all__ = ["Record", "page", "read"]
