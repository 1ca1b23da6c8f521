"""GPUs that are described but not there, for XLA to compile for: no driver is needed, only jax's CUDA plugin.

The numbers are those that NVIDIA publishes of the chips (CUDA C++ Programming Guide, technical specifications per
compute capability; the datasheets of the boards). XLA reads them as a `GpuTargetConfigProto`.
"""

from dataclasses import dataclass
from importlib.util import find_spec

import jax
from jax.experimental import topologies


@dataclass(frozen=True)
class Chip:
    """What XLA wants to know of a GPU."""

    name: str
    capability: tuple[int, int]
    multiprocessors: int
    shared_memory: int
    """Bytes of a multiprocessor."""
    threads: int
    """Most threads of a multiprocessor."""
    clock_ghz: float
    bandwidth: float
    """Bytes per second of its memory."""
    memory: int
    second_level_cache: int
    cores_per_multiprocessor: int = 128

    @property
    def architecture(self) -> str:
        """As ptxas names it."""
        major, minor = self.capability
        return f"sm_{major}{minor}{'a' if major == 9 else ''}"

    @property
    def usable_shared_memory(self) -> int:
        """Bytes that one program may have: 1 KiB of each goes to the system."""
        return self.shared_memory - 1024


CHIPS = {
    "h100": Chip("NVIDIA H100 80GB HBM3", (9, 0), 132, 228 * 1024, 2048, 1.98, 3.35e12, 80 * 2**30, 50 * 2**20),
    "a100": Chip("NVIDIA A100-SXM4-80GB", (8, 0), 108, 164 * 1024, 2048, 1.41, 2.04e12, 80 * 2**30, 40 * 2**20, 64),
    "l40s": Chip("NVIDIA L40S", (8, 9), 142, 100 * 1024, 1536, 2.52, 0.86e12, 48 * 2**30, 96 * 2**20),
}


def available() -> bool:
    """Whether jax's CUDA plugin is installed."""
    return any(find_spec(name) is not None for name in ("jax_cuda13_plugin", "jax_cuda12_plugin"))


def devices(chip: str, count: int = 1) -> list[jax.Device]:
    """GPUs of one host; what is compiled for them cannot run here."""
    described = topologies.get_topology_desc(
        platform="cuda",
        topology_name=chip,
        target_config=_description(CHIPS[chip]),
        topology=f"1x1x{count}",
    )
    return list(described.devices)


def _description(chip: Chip) -> str:
    major, minor = chip.capability
    features = "feature_extension: ACCELERATED_FEATURES" if major == 9 else ""
    return f"""
gpu_device_info {{
  name: "{chip.name}"
  device_vendor: "NVIDIA Corporation"
  cuda_compute_capability {{ major: {major} minor: {minor} {features} }}
  core_count: {chip.multiprocessors}
  fpus_per_core: {chip.cores_per_multiprocessor}
  clock_rate_ghz: {chip.clock_ghz}
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: {chip.threads}
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  shared_memory_per_core: {chip.shared_memory}
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: {chip.usable_shared_memory}
  l2_cache_size: {chip.second_level_cache}
  memory_bandwidth: {chip.bandwidth:.0f}
  device_memory_size: {chip.memory}
  driver_version: "13.0.0"
  runtime_version: "13.0.0"
  compile_time_toolkit_version: "13.0.0"
  dnn_version: "9.10.0"
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
device_description_str: "{chip.name}"
"""
