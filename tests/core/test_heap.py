"""Memory that is given back stays with the process, unless the environment says otherwise."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

# Prints how many blocks of 40 MB the system gave on its own, and how much of the heap is held once they are given back.
SCRIPT = """
import ctypes
from dougong.core.heap import keep_freed_memory

class Info(ctypes.Structure):
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype, libc.malloc.restype = Info, ctypes.c_void_p
libc.free.argtypes, libc.malloc.argtypes = [ctypes.c_void_p], [ctypes.c_size_t]
kept = {call}
before = libc.mallinfo2().hblks
blocks = [libc.malloc(40_000_000) for _ in range(3)]
own = libc.mallinfo2().hblks - before
for block in blocks:
    libc.free(block)
print(kept, own, libc.mallinfo2().arena > 120_000_000)
"""

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is asked")


def answer(call: str, **environment: str) -> str:
    command = [sys.executable, "-c", SCRIPT.replace("{call}", call)]
    return subprocess.run(
        command, env={**os.environ, **environment}, check=True, capture_output=True, text=True
    ).stdout.strip()


def test_freed_memory_is_kept() -> None:
    assert answer("keep_freed_memory()") == "True 0 True"


def test_otherwise_it_is_given_back() -> None:
    """The control."""
    assert answer("None") == "None 3 False"


def test_the_environment_has_the_last_word() -> None:
    assert answer("keep_freed_memory()", MALLOC_ARENA_MAX="1").startswith("False 3")
