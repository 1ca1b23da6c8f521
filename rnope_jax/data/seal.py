"""Index files with a checksum of themselves: what they say of other files can then be relied on."""

import hashlib
import json
from pathlib import Path
from typing import Any

from rnope_jax.errors import UserError


def text(content: dict[str, Any]) -> str:
    """An index, to be written."""
    return json.dumps({**content, "sha256": _checksum(content)}, indent=1) + "\n"


def read(path: Path) -> dict[str, Any]:
    """Reads an index.

    Raises:
      UserError: if it is not there, or not as it was written.
    """
    try:
        content = dict(json.loads(path.read_bytes()))
        checksum = content.pop("sha256")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read as an index of tokens ({error})") from error
    if _checksum(content) != checksum:
        raise UserError(f"{path} is not as it was written: restore it, or have the data prepared again")
    return content


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
