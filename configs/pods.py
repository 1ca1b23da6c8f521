"""Command R7B and Command A on TPU pods, one run for each context length.

A run has one mesh, and each length wants its own: short rows need no context parallelism, long rows
are too few to give every chip its own. So each length is a run that begins from the parameters that
the one before left behind, in runs/NAME. `docs/pods.md` has the plans that these choices come from.

    python train.py configs/pods.py:r7b_8k_v5p --data.corpus DIR --data.tokenizer FILE
    rnope plan configs/pods.py:r7b_8k_v5p --topology v5p:4x4x4
"""

from dataclasses import replace

import command_a
import command_r7b

from rnope_jax.config import Config, InitConfig, MeshConfig

#: The pod that each function is for.
TOPOLOGIES = {
    "r7b_8k_v5p": "v5p:4x4x4",
    "r7b_32k_v5p": "v5p:4x4x4",
    "r7b_128k_v5p": "v5p:4x4x4",
    "r7b_256k_v5p": "v5p:4x4x4",
    "r7b_8k_v6e": "v6e:16x16",
    "r7b_32k_v6e": "v6e:16x16",
    "r7b_128k_v6e": "v6e:16x16",
    "r7b_256k_v6e": "v6e:16x16",
    "command_a_8k_v5p": "v5p:8x8x16",
    "command_a_32k_v5p": "v5p:8x8x16",
    "command_a_128k_v5p": "v5p:8x8x16",
    "command_a_256k_v5p": "v5p:8x8x16",
}


def r7b_8k_v5p() -> Config:
    """Pretraining on 64 chips: eight rows to each, in two halves."""
    return _run(_r7b(), "r7b_8k", MeshConfig(), accumulation=2)


def r7b_32k_v5p() -> Config:
    """Two rows to each chip, one after the other."""
    return _run(_r7b(), "r7b_32k", MeshConfig(), accumulation=2)


def r7b_128k_v5p() -> Config:
    """Two rows, one after the other, for each group of four chips, which are one dimension of the torus."""
    return _run(_r7b(), "r7b_128k", MeshConfig(context=4), accumulation=2)


def r7b_256k_v5p() -> Config:
    """Four rows for each group of 16 chips, two at a time."""
    return _run(_r7b(), "r7b_256k", MeshConfig(context=16), accumulation=2)


def r7b_8k_v6e() -> Config:
    """Pretraining on 256 chips: two rows to each, one after the other."""
    return _run(_r7b(), "r7b_8k", MeshConfig(), accumulation=2)


def r7b_32k_v6e() -> Config:
    """128 rows for 256 chips: two chips share a row."""
    return _run(_r7b(), "r7b_32k", MeshConfig(context=2))


def r7b_128k_v6e() -> Config:
    """32 rows: 16 chips, one dimension of the torus, share two."""
    return _run(_r7b(), "r7b_128k", MeshConfig(context=16))


def r7b_256k_v6e() -> Config:
    """16 rows: 16 chips share one."""
    return _run(_r7b(), "r7b_256k", MeshConfig(context=16), remat="full")


def command_a_8k_v5p() -> Config:
    """111B on 1024 chips: a row to each."""
    return _run(_command_a(), "command_a_8k", MeshConfig(), remat="full")


def command_a_32k_v5p() -> Config:
    """256 rows for 1024 chips: four share a row."""
    return _run(_command_a(), "command_a_32k", MeshConfig(context=4))


def command_a_128k_v5p() -> Config:
    """64 rows: 16 chips share a row."""
    return _run(_command_a(), "command_a_128k", MeshConfig(context=16))


def command_a_256k_v5p() -> Config:
    """32 rows: 32 chips share a row."""
    return _run(_command_a(), "command_a_256k", MeshConfig(context=32))


def _r7b() -> Config:
    """Command R7B with one more stage; its card gives 128k, so 256k is chosen."""
    config = command_r7b.config()
    return replace(config, stages=(*config.stages, command_r7b.extension("extend_256k", 262_144, tokens=12.5e9)))


def _command_a() -> Config:
    return command_a.config()


def _run(base: Config, name: str, mesh: MeshConfig, *, accumulation: int = 1, remat: str = "attention") -> Config:
    """The stage of `base` for the length in `name`, as a run that begins from the run of the length before."""
    shape, length = name.rsplit("_", 1)
    names = [stage.name for stage in base.stages]
    index = next(i for i, stage in enumerate(names) if stage.endswith(f"_{length}"))
    before = f"runs/{shape}_{names[index - 1].rsplit('_', 1)[1]}" if index else None
    return replace(
        base,
        name=name,
        model=replace(base.model, remat=remat),
        stages=(replace(base.stages[index], accumulation=accumulation),),
        init=InitConfig(source=before),
        mesh=mesh,
    )
