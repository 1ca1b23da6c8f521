"""Batches in the order of their steps, read ahead.

A batch is a pure function of (seed, step, row), so nothing about the position in the data is stored but the
step: the loader of a resumed run starts there and gives the very batches that the unbroken run would
have had.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from rnope_jax.data.mixture import Mixture
from rnope_jax.data.packing import Batch, ConcatRows, Documents, empty_batch, too_short
from rnope_jax.data.store import Tokens
from rnope_jax.errors import UserError

#: Batches that are read ahead.
_AHEAD = 8

#: Seconds without a batch after which the files count as out of reach.
WAIT = 600


class DataError(UserError):
    """The data of a run, which were there, cannot be read any more."""


class ReadAhead(Iterator[Batch]):
    """Batches that a thread of its own makes before they are asked for.

    One thread: more only contend for the interpreter. What ends it ends whoever waits for it.

    Args:
      batches: made one by one in the thread.
      limit: seconds for which a batch is waited for.
      stopping: asked every second of waiting; if true, waiting ends as if there were no more batches.
    """

    def __init__(self, batches: Iterable[Batch], limit: float = WAIT, stopping: Callable[[], bool] = lambda: False):
        self._limit, self._stopping = limit, stopping
        self._made: queue.Queue[Batch | BaseException | None] = queue.Queue(_AHEAD)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(batches,), name="data", daemon=True)
        self._thread.start()

    def __next__(self) -> Batch:
        """The next batch.

        Raises:
          StopIteration: if there are no more, or a stop was requested while one was waited for.
          DataError: if the files cannot be read, or no batch has come in time.
        """
        began = time.monotonic()
        while True:
            try:
                made = self._made.get(timeout=min(1.0, self._limit))
                break
            except queue.Empty:
                if self._stopping():
                    raise StopIteration from None
                if not self._thread.is_alive() and self._made.empty():
                    raise DataError(
                        "the thread that reads the data has ended without a word; give the command again"
                    ) from None
                if time.monotonic() - began > self._limit:
                    raise DataError(
                        f"no batch has come for {self._limit:.0f} s: the data files do not answer. Mend the mount"
                    ) from None
        if made is None:
            raise StopIteration
        if isinstance(made, BaseException):
            raise _explained(made) from made
        return made

    def close(self) -> None:
        """Lets the thread end."""
        self._over.set()

    def _run(self, batches: Iterable[Batch]) -> None:
        try:
            for batch in batches:
                if not self._put(batch):
                    return
            self._put(None)
        except BaseException as error:  # whatever it is, whoever waits must learn of it
            self._put(error)

    def _put(self, made: Batch | BaseException | None) -> bool:
        while not self._over.is_set():
            try:
                self._made.put(made, timeout=1.0)
                return True
            except queue.Full:
                continue
        return False


def _explained(error: BaseException) -> BaseException:
    """What keeps data from being read, as a user is told of it."""
    if isinstance(error, UserError):
        return DataError(str(error))
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return DataError(f"the data cannot be read any more: {where}{error.strerror or error}")
    return error


def training_batches(
    mixture: Mixture,
    start: int = 0,
    wanted: Sequence[int] | None = None,
    stopping: Callable[[], bool] = lambda: False,
) -> ReadAhead:
    """The batches of a stage, from its step `start` to its end.

    Args:
      mixture: what it reads.
      start: first step.
      wanted: which rows of each batch; None takes all.
      stopping: whether to give up waiting for a batch that does not come.
    """
    steps = range(start, mixture.stage.steps)
    return ReadAhead((mixture.batch(step, wanted) for step in steps), stopping=stopping)


def held_out_batches(
    store: Tokens, length: int, batch_size: int, rows: int | None = None, wanted: Sequence[int] | None = None
) -> Iterator[Batch]:
    """The held-out text in order, padded to whole batches.

    Args:
      store: held-out tokens.
      length: tokens per row.
      batch_size: rows per global batch.
      rows: how many rows to read, spread evenly over the text; None reads every token.
      wanted: which rows of each batch; None takes all.

    Raises:
      DataError: if the tokens cannot be read.
    """
    documents = Documents(store)
    source = ConcatRows(documents, length, pad_last=True)
    if not len(source):
        raise too_short(documents, length)
    chosen = np.arange(len(source))
    if rows is not None and rows < len(source):
        chosen = np.linspace(0, len(source) - 1, rows).round().astype(int)
    for first in range(0, len(chosen), batch_size):
        group = chosen[first : first + batch_size]
        mine = range(batch_size) if wanted is None else wanted
        batch = empty_batch(len(mine), length)
        for place, row in enumerate(mine):
            if row >= len(group):
                continue
            try:
                source.fill(int(group[row]), Batch(*(array[place] for array in batch)))
            except (UserError, OSError) as error:
                raise _explained(error) from error
        yield batch
