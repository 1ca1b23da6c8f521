"""What happens to files: flipped bits, truncations, deletions, and disks without room."""

import contextlib
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.faults.campaign import Campaign, Trial, parameters
from rnope_jax.checkpoint import integrity, saved_steps, saved_weights
from rnope_jax.errors import UserError
from tests.checkpoint.faults import delete, flip_bit, truncate

FAULTS = {"flip": flip_bit, "truncation": truncate, "deletion": delete}


def damaged_files(campaign: Campaign, kind: str, numbers: Sequence[int]) -> Iterator[Trial]:
    """A fault in a random file of the newest checkpoint, which is then read by the program's own reader.

    It must be found, and the checkpoint before be read instead, bit for bit. Where the integrity file is
    what was deleted, the newest must be read, bit for bit.
    """
    run = campaign.copy("damaged", keep=2)
    before, newest = saved_steps(run / "checkpoints")
    expected = {step: parameters(campaign.reference, step) for step in (newest, before)}
    checkpoint = run / "checkpoints" / str(newest)
    files = [path for path in sorted(checkpoint.rglob("*")) if path.is_file()]
    for number in numbers:
        draw = campaign.draw(kind, number)
        file = draw.choice(files)
        whole = file.read_bytes()
        FAULTS[kind](file, draw)
        right = before if integrity.is_sealed(checkpoint) else newest
        try:
            weights = saved_weights(run / "checkpoints", report=lambda line: None)
            loss = None if weights.step == right else f"{file.name}: step {weights.step} was read, not {right}"
            for name, value in expected[right].items():
                if not np.array_equal(weights.read(name), value, equal_nan=True):
                    loss = loss or f"{file.name}: {name} is another"
        except UserError as error:
            loss = f"{file.name}: {error}"
        yield Trial(kind, number, loss, {"file": str(file.relative_to(checkpoint))})
        file.write_bytes(whole)
    shutil.rmtree(run)


def damaged_runs(campaign: Campaign, numbers: Sequence[int]) -> Iterator[Trial]:
    """Faults in one or two of the newest checkpoints; then the whole command, which must end as without."""
    for number in numbers:
        draw = campaign.draw("run", number)
        run = campaign.copy("resumed", keep=4)
        hit = saved_steps(run / "checkpoints")[-draw.randint(1, 2) :]
        for step in hit:
            files = [path for path in sorted((run / "checkpoints" / str(step)).rglob("*")) if path.is_file()]
            files = [path for path in files if path.name != integrity.NAME]
            FAULTS[draw.choice(list(FAULTS))](draw.choice(files), draw)
        ended = campaign.train(run)
        loss = f"code {ended.code}: {ended.said[-300:]}" if ended.code else campaign.wrong(run)
        if not all((run / "checkpoints" / f"damaged-{step}").is_dir() for step in hit):
            loss = loss or f"{hit} were not set aside"
        yield Trial("run", number, loss, {"damaged": hit})
        shutil.rmtree(run)


@contextlib.contextmanager
def small_disk(campaign: Campaign, run: Path, room: int) -> Iterator[tuple[Path, int | None]]:
    """A run on a file system with little room; where none can be mounted, files cannot grow beyond it."""
    where = campaign.work / "disk"
    where.mkdir(exist_ok=True)
    size = sum(-(-path.stat().st_size // 4096) * 4096 for path in run.rglob("*") if path.is_file()) + 2**20
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size + room}", "tmpfs", str(where)]
    mounted = shutil.which("mount") and subprocess.run(mount, capture_output=True).returncode == 0
    try:
        shutil.copytree(run, where / "run")
        if mounted:  # what is left is exactly `room`
            left = shutil.disk_usage(where).free - room
            (where / "ballast").write_bytes(bytes(max(left, 0)))
        yield where / "run", None if mounted else room
    finally:
        if mounted:
            subprocess.run(["umount", str(where)], check=True)
        shutil.rmtree(where)


def full_disks(campaign: Campaign, numbers: Sequence[int]) -> Iterator[Trial]:
    """A disk that fills up after a random number of bytes; then there is room, and the command must end as without."""
    for number in numbers:
        room = campaign.draw("disk", number).randrange(30_000, 400_000)
        half = campaign.copy("half", keep=4)
        first, *later = saved_steps(half / "checkpoints")
        for step in later:
            shutil.rmtree(half / "checkpoints" / str(step))
        with small_disk(campaign, half, room) as (run, limit):
            ended = campaign.train(run, limit=limit)
            loss = None if ended.code in (0, 2) else f"code {ended.code}: {ended.said[-300:]}"
            if ended.code == 2:
                if first not in saved_steps(run / "checkpoints"):
                    loss = f"checkpoint {first} was gone"
                shutil.rmtree(half)
                shutil.copytree(run, half)  # onto a disk with room
                again = campaign.train(half)
                loss = loss or (f"code {again.code}: {again.said[-300:]}" if again.code else campaign.wrong(half))
            else:
                loss = loss or campaign.wrong(run)
        yield Trial("disk", number, loss, {"room": room, "full": ended.code == 2})
        shutil.rmtree(half)
