"""The heap of this process: memory that is given back stays with it, ready for the next step.

A step of training takes and gives back the same tensors again and again. By default glibc hands each large one to the
system at once and asks for it anew, and the system clears it page by page: up to half a millisecond per megabyte on a
virtual machine. Knows no tensors.
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of mallopt(3)
_MOST = 2**31 - 1


@functools.cache
def keep_freed_memory() -> bool:
    """Lets the process keep the memory that it gives back, and returns whether it does.

    Only glibc on Linux is asked, and not where the environment already says how memory is to be managed
    (`MALLOC_TRIM_THRESHOLD_`, `MALLOC_MMAP_MAX_`, `GLIBC_TUNABLES`). The process then never shrinks below its peak.
    """
    chosen = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    if chosen or platform.libc_ver()[0] != "glibc":
        return False
    set_option = ctypes.CDLL(None).mallopt
    return bool(set_option(_MMAP_MAX, 0)) and bool(set_option(_TRIM_THRESHOLD, _MOST))
