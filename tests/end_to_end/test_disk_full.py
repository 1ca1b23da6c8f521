"""A disk without room for the next checkpoint."""

import contextlib
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.end_to_end.commands import TINY, finish, start
from tests.end_to_end.test_interruption import assert_same_result, saved
from tests.training.runs import tree_hash

#: Room for reports, not for a checkpoint (its largest file has about 110 KiB).
ROOM = 60 << 10


@contextlib.contextmanager
def small_disk(where: Path, content: Path) -> Iterator[tuple[dict, Callable[[], None]]]:
    """Puts a copy of `content` on a disk with little room at `where`.

    Where nothing can be mounted, the size of files is limited instead. Yields options for the process
    that is to meet the limit, and a function that makes room.
    """
    where.mkdir()
    size = sum(-(-path.stat().st_size // 4096) * 4096 for path in content.rglob("*") if path.is_file())
    mounted = (
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size + ROOM}", "tmpfs", str(where)], capture_output=True
        ).returncode
        == 0
        if shutil.which("mount")
        else False
    )
    try:
        shutil.copytree(content, where / "run")
        if mounted:
            yield {}, lambda: subprocess.run(["mount", "-o", "remount,size=64m", str(where)], check=True)
        else:
            yield {"file_limit": ROOM}, lambda: None
    finally:
        if mounted:
            subprocess.run(["umount", str(where)], check=True)


@pytest.mark.parametrize("mountable", [True, False], ids=["disk", "limit"])
def test_the_run_ends_with_one_message_and_goes_on_when_there_is_room(
    mountable, text, compiled, finished, tmp_path, monkeypatch
):
    if not mountable:
        monkeypatch.setattr(shutil, "which", lambda name: None)
    earlier = shutil.copytree(finished[0], tmp_path / "earlier")
    for step in (19, 20):
        shutil.rmtree(earlier / "checkpoints" / str(step))
    command = ["train.py", TINY, "--data.corpus", text, "--evaluation.prompts", "--checkpoint.keep", "9"]
    with small_disk(tmp_path / "disk", earlier) as (options, make_room):
        run_dir = tmp_path / "disk" / "run"
        before = tree_hash(run_dir / "checkpoints" / "18")
        ended = finish(start(compiled, *command, "--run-dir", run_dir, **options))
        assert ended.code == 2, ended
        assert ended.err.startswith("error: ")
        assert ended.err.count("\n") == 1, ended.err
        assert "Earlier checkpoints are intact" in ended.err
        assert saved(run_dir) == {18}
        assert tree_hash(run_dir / "checkpoints" / "18") == before
        make_room()
        again = finish(start(compiled, *command, "--run-dir", run_dir))
        assert (again.code, again.err) == (0, "")
        assert_same_result(run_dir, finished[0])
