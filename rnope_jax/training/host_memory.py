"""Memory of the host."""

import ctypes
import gc
import sys


def release() -> None:
    """Hands memory that compiling used back to the operating system.

    glibc keeps what was freed between pieces that are still in use, hundreds of MiB after XLA has compiled a step.
    Does nothing where the C library is another one.
    """
    gc.collect()
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "malloc_trim"):
        library.malloc_trim(0)
