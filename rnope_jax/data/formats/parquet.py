"""Parquet files: a record in each row. Needs pyarrow."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rnope_jax.data.formats.item import Bad, Item, Limits
from rnope_jax.errors import UserError

#: Rows that are decoded at once.
_ROWS = 64

#: Sets of columns that make a record, besides the text column.
_RECORDS = (("messages",), ("prompt", "response"))


def units(path: Path, size: int, target: int, limits: Limits) -> list[tuple[int, int]]:
    """Ranges of row groups.

    Raises:
      UserError: if it has no column that can be read, or pyarrow is not installed.
    """
    arrow, parquet = _pyarrow()
    try:
        with parquet.ParquetFile(path) as file:
            _columns(path, file.schema_arrow, limits)
            sizes = [file.metadata.row_group(i).total_byte_size for i in range(file.num_row_groups)]
    except (arrow.ArrowException, OSError):
        return [(0, 0)]  # `items` says what is wrong with it
    made: list[tuple[int, int]] = []
    room = 0
    for group, bytes_ in enumerate(sizes):
        if room >= bytes_ and made:
            made[-1] = (made[-1][0], group + 1)
            room -= bytes_
        else:
            made.append((group, group + 1))
            room = target - bytes_
    return made


def items(path: Path, first: int, stop: int, limits: Limits) -> Iterator[Item]:
    """The rows of some row groups."""
    arrow, parquet = _pyarrow()
    number = 0
    try:
        with parquet.ParquetFile(path, pre_buffer=False) as file:
            columns = _columns(path, file.schema_arrow, limits)
            sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
            for group in range(first, stop):
                end = number + sizes[group]
                try:
                    for batch in file.iter_batches(_ROWS, row_groups=[group], columns=columns, use_threads=False):
                        for row in range(batch.num_rows):
                            number += 1
                            yield Item(number, _record(batch, row, limits))
                except (arrow.ArrowException, OSError) as error:
                    if number < end:
                        left = end - number
                        yield Item(number + 1, Bad(f"{left} rows from here on cannot be read: {error}", count=left))
                number = end
    except (arrow.ArrowException, OSError) as error:
        yield Item(0, Bad(f"cannot be read as Parquet: {error}"))


def _record(batch: Any, row: int, limits: Limits) -> dict[str, Any] | Bad:
    try:
        record: dict[str, Any] = {name: batch.column(name)[row].as_py() for name in batch.schema.names}
    except UnicodeDecodeError as error:
        return Bad(f"is not UTF-8 ({error.reason} at byte {error.start})")
    for name, value in record.items():
        if isinstance(value, bytes):  # a text column that was written without saying so
            try:
                record[name] = value.decode("utf-8")
            except UnicodeDecodeError as error:
                return Bad(f"column {name!r} is not UTF-8 ({error.reason} at byte {error.start})")
        if isinstance(value, bytes | str) and len(value) > limits.record_bytes:
            return Bad(f"a text of {len(value):,} bytes, more than the {limits.record_bytes:,} of --max-record-mb")
    return record


def _columns(path: Path, schema: Any, limits: Limits) -> list[str]:
    for wanted in ((limits.text_field,), *_RECORDS):
        if set(wanted) <= set(schema.names):
            return list(wanted)
    raise UserError(
        f"{path} has no column {limits.text_field!r}, nor messages, nor prompt and response; its columns are "
        f"{', '.join(schema.names) or 'none'}: give the one with the text as --text-field"
    )


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UserError("Parquet files are read with pyarrow: pip install 'rnope-jax[parquet]'") from error
    return pyarrow, parquet
