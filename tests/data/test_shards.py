"""Files of tokens with checksums."""

import hashlib

import numpy as np
import pytest

from rnope_jax.data.shards import BLOCK, Checksums, Shard, ShardWriter
from rnope_jax.errors import UserError

NUMBERS = np.random.default_rng(0).integers(0, 60_000, 50_000)


def write(directory, limit=1 << 30, numbers=NUMBERS):
    """Shards of numbers that were written in uneven pieces."""
    writer = ShardWriter(directory, "tokens", np.dtype("<u2"), limit)
    for piece in np.split(numbers, [0, 1, 7, 16_384, 16_385, 40_000]):
        writer.write(piece)
    writer.close()
    return [
        Shard(
            directory / f"{entry['name']}.bin",
            entry["count"],
            "<u2",
            directory / f"{entry['name']}.crc",
            entry["checksums_sha256"],
        )
        for entry in writer.written
    ]


def test_what_was_written_is_read_at_any_place(tmp_path):
    (shard,) = write(tmp_path)
    for first, stop in [(0, 0), (0, 1), (5, 40_000), (49_999, 50_000), (16_380, 16_390), (0, 50_000)] * 2:
        np.testing.assert_array_equal(shard.read(first, stop), NUMBERS[first:stop])


def test_files_have_their_limit_and_the_last_one_the_rest(tmp_path):
    shards = write(tmp_path, limit=9_000)
    assert [shard.count for shard in shards] == [9_000] * 5 + [5_000]
    np.testing.assert_array_equal(np.concatenate([shard.read(0, shard.count) for shard in shards]), NUMBERS)


def test_checksums_do_not_depend_on_the_pieces():
    data = NUMBERS.astype("<u2").tobytes()
    at_once, piecemeal = Checksums(), Checksums()
    at_once.update(data)
    for first in range(0, len(data), 777):
        piecemeal.update(data[first : first + 777])
    assert at_once.sha256.hexdigest() == piecemeal.sha256.hexdigest() == hashlib.sha256(data).hexdigest()
    np.testing.assert_array_equal(at_once.blocks(), piecemeal.blocks())
    assert len(at_once.blocks()) == -(-len(data) // BLOCK)


@pytest.mark.parametrize("place", [0, BLOCK - 1, BLOCK, 2 * BLOCK + 3, 99_999])
def test_a_flipped_bit_is_noticed_where_it_is_and_nowhere_else(tmp_path, place):
    (shard,) = write(tmp_path)
    data = bytearray(shard.path.read_bytes())
    data[place] ^= 1
    shard.path.write_bytes(data)
    token = place // 2
    with pytest.raises(UserError, match=rf"tokens-0000\.bin is damaged between bytes {place // BLOCK * BLOCK} and"):
        shard.read(token, token + 1)
    with pytest.raises(UserError, match="damaged"):
        shard.read(0, shard.count)
    other = (token + BLOCK) % shard.count
    assert shard.read(other, other + 1) == NUMBERS[other]
    with pytest.raises(UserError, match="damaged"):  # that one block is sound says nothing of another
        shard.read(token, token + 1)


def test_other_checksums_are_refused(tmp_path):
    (shard,) = write(tmp_path)
    data = bytearray(shard.path.read_bytes())
    data[0] ^= 1
    shard.path.write_bytes(data)
    changed = Checksums()
    changed.update(bytes(data))
    shard.checksums.write_bytes(changed.blocks().tobytes())
    with pytest.raises(UserError, match=r"tokens-0000\.crc is not the list of checksums that was written"):
        shard.read(0, 1)


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + b"\0", None])
def test_a_file_of_another_size_or_none_is_refused(tmp_path, change):
    (shard,) = write(tmp_path)
    if change is None:
        shard.path.unlink()
    else:
        shard.path.write_bytes(change(shard.path.read_bytes()))
    with pytest.raises(UserError, match=r"tokens-0000\.bin"):
        shard.check()
    with pytest.raises(UserError, match=r"tokens-0000\.bin"):
        shard.read(0, 1)


def test_a_file_that_shrinks_while_it_is_read_is_noticed(tmp_path):
    (shard,) = write(tmp_path)
    shard.read(0, 10)
    with shard.path.open("r+b") as file:
        file.truncate(BLOCK + 10)
    with pytest.raises(UserError, match=r"tokens-0000\.bin"):
        shard.read(40_000, 40_010)
