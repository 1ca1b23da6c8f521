"""TensorBoard event files, written as the numbers come.

The usual `SummaryWriter` hands them to a thread; when that thread meets a full disk it dies, and the
program waits for it for ever. Here the error reaches the caller.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def _without(module: str) -> Iterator[None]:
    """A module that is not imported yet is not found inside."""
    modules: dict[str, Any] = sys.modules
    absent = module not in modules
    if absent:
        modules[module] = None
    try:
        yield
    finally:
        if absent:
            del modules[module]


# tensorboardX imports torch wherever it is installed, only to recognise its tensors: seconds and 200 MB.
with _without("torch"):
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event, SessionLog
    from tensorboardX.summary import scalar


class TensorBoard:
    """Scalars by step."""

    def __init__(self, directory: Path, first_step: int):
        """Opens a new event file; what earlier files say of `first_step` and later steps is void."""
        directory.mkdir(parents=True, exist_ok=True)
        self._writer = EventsWriter(str(directory / "events"))
        self._writer.write_event(
            Event(wall_time=time.time(), step=first_step, session_log=SessionLog(status=SessionLog.START))
        )

    def write(self, step: int, values: dict[str, float]) -> None:
        """Adds numbers for a step."""
        now = time.time()
        for name, value in values.items():
            self._writer.write_event(Event(wall_time=now, step=step, summary=scalar(name, value)))
        self._writer.flush()

    def close(self) -> None:
        """Closes the file."""
        self._writer.close()
