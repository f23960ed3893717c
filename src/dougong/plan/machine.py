"""What tells this machine from another where times are concerned: processor, threads, build of torch.

Knows nothing of what is computed.
"""

from __future__ import annotations

import functools
import platform
import re

import torch

from dougong.core import files
from dougong.core.errors import DougongError


def machine_name() -> str:
    """Returns such as `AMD EPYC (26.2.1), 2 threads, torch 2.13.0+cpu`; an accelerator's name comes first."""
    gpu = f"{torch.cuda.get_device_name()}, " if torch.cuda.is_available() else ""
    return f"{gpu}{_processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}"


@functools.cache
def _processor() -> str:
    """Returns the processor's name, with its family, model and stepping where Linux tells them."""
    try:
        text = files.read_text("/proc/cpuinfo")
    except DougongError:
        return platform.processor() or platform.machine()
    found = dict(re.findall(r"^(model name|cpu family|model|stepping)\s*:\s*(.+)$", text, re.MULTILINE))
    number = ".".join(found[key] for key in ("cpu family", "model", "stepping") if key in found)
    return f"{found.get('model name', platform.machine())} ({number})" if number else platform.machine()
