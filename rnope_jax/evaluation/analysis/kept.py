"""What was found of single texts, on disk until an analysis is complete."""

import hashlib
import io
import shutil
import zipfile
from pathlib import Path

import numpy as np

from rnope_jax.attention.statistics import Statistics
from rnope_jax.errors import UserError
from rnope_jax.evaluation.analysis.probe import Probe
from rnope_jax.files import write_bytes


class Kept:
    """A directory with a file for each model and text.

    A file's name is a checksum of both, so that what belongs to another model or text is never taken.

    Args:
      directory: where the files are; it is made when the first is written.
      model: tells the model from others.
    """

    def __init__(self, directory: Path, model: str):
        self._directory, self._model = directory, model

    def _path(self, probe: Probe) -> Path:
        digest = hashlib.sha256(self._model.encode())
        for array in (probe.tokens, probe.segments):
            digest.update(array.tobytes())
        return self._directory / f"{digest.hexdigest()}.npz"

    def find(self, probe: Probe) -> Statistics | None:
        """What was found of a text; None if it was not read yet.

        Raises:
          UserError: if the file cannot be read.
        """
        path = self._path(probe)
        if not path.exists():
            return None
        try:
            with np.load(path) as arrays:
                return Statistics(**arrays)
        except (OSError, ValueError, TypeError, zipfile.BadZipFile) as error:
            raise UserError(f"{path}: cannot be read ({error}); remove it to read this text again") from error

    def add(self, probe: Probe, found: Statistics) -> None:
        """Keeps what was found of a text; it is on disk when this returns."""
        self._directory.mkdir(parents=True, exist_ok=True)
        file = io.BytesIO()
        np.savez(file, **found._asdict())
        write_bytes(self._path(probe), file.getvalue())


def forget(directory: Path) -> None:
    """Removes the files of an analysis that is complete."""
    shutil.rmtree(directory, ignore_errors=True)
