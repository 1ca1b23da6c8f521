"""The device that a program is compiled for, which need not be one that this machine has."""

import jax


def target() -> tuple[str, str]:
    """Platform and kind of the devices of the mesh in context, else of the default ones: ("tpu", "TPU v5")."""
    mesh = jax.sharding.get_abstract_mesh()
    device = mesh.abstract_device if not mesh.empty and mesh.abstract_device is not None else jax.devices()[0]
    return device.platform, device.device_kind


def is_nvidia(platform: str, kind: str) -> bool:
    """Whether a device is a GPU for which the kernels were written: NVIDIA's, from Ampere on.

    Its runtime calls older ones "Tesla T4" or "Quadro RTX 6000", and those of other makers by other names.
    """
    return platform in ("gpu", "cuda") and kind.startswith("NVIDIA")
