"""Best-fit packing: which pieces of documents share a row.

Pieces are taken from the longest to the shortest, and each goes into the row whose room it leaves the
least of (best-fit decreasing; for documents in rows: Ding et al., "Fewer Truncations Improve Language
Modeling", arXiv 2404.10830). Equal pieces and equal rows are handled together, so the work grows with the
number of different lengths, not with the number of documents.
"""

from bisect import bisect_left, insort

import numpy as np


def best_fit(sizes: np.ndarray, capacity: int) -> tuple[np.ndarray, int]:
    """Assigns pieces to rows.

    Args:
      sizes: of the pieces, each from 1 to `capacity`.
      capacity: of a row.

    Returns:
      The row of each piece, and the number of rows.
    """
    row_of = np.empty(len(sizes), np.int64)
    open_rows: dict[int, list[np.ndarray]] = {}  # by the room that is left in them
    rooms: list[int] = []  # rising
    count = 0

    def put_back(rows: np.ndarray, room: int) -> None:
        if not room or not len(rows):
            return
        if room not in open_rows:
            open_rows[room] = []
            insort(rooms, room)
        open_rows[room].append(rows)

    order = np.argsort(-sizes, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(sizes[order])) + 1) if len(order) else []
    for pieces in groups:
        size = int(sizes[pieces[0]])
        while len(pieces):
            place = bisect_left(rooms, size)
            if place == len(rooms):
                room = capacity
                rows = np.arange(count, count - (-len(pieces) // (room // size)))
                count += len(rows)
            else:
                room = rooms[place]
                rows = open_rows[room].pop()
                if not open_rows[room]:
                    del open_rows[room], rooms[place]
            # What is left of a row after a piece is less than before, so while the next equal piece
            # fits, that row is its best fit again.
            each = room // size
            used = min(len(rows), -(-len(pieces) // each))
            placed = pieces[: used * each]
            row_of[placed] = np.repeat(rows[:used], each)[: len(placed)]
            full, rest = divmod(len(placed), each)
            put_back(rows[used:], room)
            put_back(rows[:full], room - each * size)
            if rest:
                put_back(rows[full:used], room - rest * size)
            pieces = pieces[len(placed) :]
    return row_of, count
