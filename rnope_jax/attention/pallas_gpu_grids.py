"""What each program of the GPU kernels is given: how queries, keys and visits are cut over a grid of programs."""

from typing import NamedTuple

import jax
from jax.experimental import pallas as pl

from rnope_jax.attention.pallas_gpu_tiles import Tiles
from rnope_jax.attention.pallas_gpu_visits import by_key, by_query

#: An array (or nothing) and how it is cut for a program.
Input = tuple[jax.Array | None, pl.BlockSpec | None]


class Rows(NamedTuple):
    """The arrays that every kernel reads; queries and keys are whole tiles."""

    q: jax.Array
    """[B, S, H, D]"""
    k: jax.Array
    """[B, T, K, D]; query head h reads key head h // (H / K)."""
    v: jax.Array
    """[B, T, K, D]"""
    places: jax.Array
    """Where each query stands among the keys [S]: rises by one within a tile, and from tile to tile."""
    segments: jax.Array | None
    """Document of each query [B, S]; None: one document."""
    key_segments: jax.Array | None
    """Document of each key [B, T]."""


class QueryTiles:
    """Programs that own a tile of queries of a head each. A program's number is (head, tile, row).

    The heads of one tile run next to each other, because they share keys; the last tiles, which see most, run first.
    """

    def __init__(self, rows: Rows, tiles: Tiles, window: int | None):
        batch, length, heads, dim = rows.q.shape
        keys, kv_heads = rows.k.shape[1:3]
        count, group = length // tiles.queries, heads // kv_heads
        self.grid = (heads, count, batch)
        starts = rows.places[:: tiles.queries]
        visits = by_query(starts, tiles, keys, window, rows.segments, rows.key_segments)

        def own(n: jax.Array) -> jax.Array:
            return count - 1 - n

        #: A tile of an array [B, S, H, D].
        self.vectors = pl.BlockSpec((None, tiles.queries, None, dim), lambda h, n, b: (b, own(n), h, 0))
        #: A tile of an array [B, H, S].
        self.numbers = pl.BlockSpec((None, None, tiles.queries), lambda h, n, b: (b, h, own(n)))
        whole = pl.BlockSpec((None, keys, None, dim), lambda h, n, b: (b, 0, jax.lax.div(h, group), 0))
        self.inputs: list[Input] = [
            (visits, pl.BlockSpec((None, None, 4), lambda h, n, b: (b if len(visits) > 1 else 0, own(n), 0))),
            (starts, pl.BlockSpec((1,), lambda h, n, b: (own(n),))),
            _optional(rows.segments, pl.BlockSpec((None, tiles.queries), lambda h, n, b: (b, own(n)))),
            _optional(rows.key_segments, pl.BlockSpec((None, keys), lambda h, n, b: (b, 0))),
            (rows.q, self.vectors),
            (rows.k, whole),
            (rows.v, whole),
        ]


class KeyTiles:
    """Programs that own a tile of keys of a key head each, and visit all query heads that read it.

    A program's number is (key head, tile, row). The first tiles, which are seen most, run first.
    """

    def __init__(self, rows: Rows, tiles: Tiles, window: int | None):
        batch, length, heads, dim = rows.q.shape
        keys, kv_heads = rows.k.shape[1:3]
        group = heads // kv_heads
        self.grid = (kv_heads, keys // tiles.keys, batch)
        starts = rows.places[:: tiles.queries]
        visits = by_key(starts, tiles, keys, window, rows.segments, rows.key_segments)
        #: A tile of an array [B, T, K, D].
        self.vectors = pl.BlockSpec((None, tiles.keys, None, dim), lambda h, n, b: (b, n, h, 0))
        #: The heads of an array [B, S, H, D] that read one key head.
        self.heads = pl.BlockSpec((None, length, group, dim), lambda h, n, b: (b, 0, h, 0))
        #: The same of an array [B, H, S].
        self.numbers = pl.BlockSpec((None, group, length), lambda h, n, b: (b, h, 0))
        self.inputs: list[Input] = [
            (visits, pl.BlockSpec((None, None, 4), lambda h, n, b: (b if len(visits) > 1 else 0, n, 0))),
            (starts, pl.BlockSpec(starts.shape, lambda h, n, b: (0,))),
            _optional(rows.segments, pl.BlockSpec((None, length), lambda h, n, b: (b, 0))),
            _optional(rows.key_segments, pl.BlockSpec((None, tiles.keys), lambda h, n, b: (b, n))),
            (rows.q, self.heads),
            (rows.k, self.vectors),
            (rows.v, self.vectors),
        ]


def _optional(x: jax.Array | None, spec: pl.BlockSpec) -> Input:
    return (None, None) if x is None else (x, spec)
