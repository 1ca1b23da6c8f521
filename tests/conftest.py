"""Set up before jax is imported: the CPU as eight devices, cheap compiles, and a cache of them."""

import os
from pathlib import Path

#: The suite compiles many small programs and runs each a few times: machine code need not be fast.
CHEAP = (
    "--xla_backend_optimization_level=0",
    # Fusions go through MLIR by default, which takes two thirds of a compilation.
    "--xla_cpu_use_fusion_emitters=false",
    # One module of code a program, not one a core and more.
    "--xla_cpu_parallel_codegen_split_count=1",
)
#: Several devices for the tests of sharding.
FLAGS = ("--xla_force_host_platform_device_count=8", *CHEAP)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Models and data of the tests lie on this machine; the libraries that could fetch others need not ask for them.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *FLAGS]).strip()

import jax  # noqa: E402

CACHE = Path(__file__).parent.parent / ".pytest_cache" / "jax"
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def pytest_configure(config):
    # Entries are not written atomically: two runs at once may meet half of one, and compile instead.
    config.addinivalue_line("filterwarnings", "ignore:Error (reading|writing) persistent compilation cache")
