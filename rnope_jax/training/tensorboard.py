"""TensorBoard event files, written as the numbers come.

The usual `SummaryWriter` hands them to a thread; when that thread meets a full disk it dies, and the
program waits for it for ever. Here the error reaches the caller.
"""

import sys
import time
from pathlib import Path
from typing import Any


class TensorBoard:
    """Scalars by step."""

    def __init__(self, directory: Path, first_step: int):
        """Opens a new event file; what earlier files say of `first_step` and later steps is void."""
        writer, self._proto, self._scalar = _library()
        directory.mkdir(parents=True, exist_ok=True)
        self._writer = writer.EventsWriter(str(directory / "events"))
        start = self._proto.SessionLog(status=self._proto.SessionLog.START)
        self._writer.write_event(self._proto.Event(wall_time=time.time(), step=first_step, session_log=start))

    def write(self, step: int, values: dict[str, float]) -> None:
        """Adds numbers for a step."""
        now = time.time()
        for name, value in values.items():
            self._writer.write_event(self._proto.Event(wall_time=now, step=step, summary=self._scalar(name, value)))
        self._writer.flush()

    def close(self) -> None:
        """Closes the file."""
        self._writer.close()


def _library() -> Any:
    """The writer, the messages and the scalars of tensorboardX.

    It loads PyTorch where that is installed, which takes seconds and memory and serves nothing here;
    while it is loaded, PyTorch is not to be found.
    """
    hidden = "torch" not in sys.modules
    if hidden:
        sys.modules["torch"] = None  # type: ignore[assignment]  # what Python takes for absent
    try:
        from tensorboardX import event_file_writer
        from tensorboardX.proto import event_pb2
        from tensorboardX.summary import scalar
    finally:
        if hidden:
            del sys.modules["torch"]
    return event_file_writer, event_pb2, scalar
