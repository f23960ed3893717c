"""Runs torchvision as a reference, in a process of its own and from a folder of its own.

Torchvision's compiled operators link against CUDA libraries and do not load beside a CPU build of torch, and
torchvision merely installed breaks transformers. So it is unpacked, without dependencies, where no other import finds
it; its operators are declared before it is imported, and non-maximum suppression is given in Python. Where the folder
is not there, and no index of packages can be reached, the test is skipped and says so.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock
from safetensors.torch import load_file, save_file
from torch import Tensor

VERSION = "0.28.0"
FOLDER = Path(__file__).parents[1] / ".cache" / f"torchvision-{VERSION}"
SECONDS = 200

_BEFORE = """
import sys
import torch
from safetensors.torch import load_file, save_file

operators = torch.library.Library("torchvision", "DEF")
operators.define("nms(Tensor boxes, Tensor scores, float threshold) -> Tensor")
operators.define("qnms(Tensor boxes, Tensor scores, float threshold) -> Tensor")

def plain_nms(boxes, scores, threshold):
    rest, kept = scores.argsort(descending=True, stable=True).tolist(), []
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    while rest:
        best = rest.pop(0)
        kept.append(best)
        others = torch.tensor(rest, dtype=torch.int64)
        corner = torch.minimum(boxes[best, 2:], boxes[others, 2:])
        sides = (corner - torch.maximum(boxes[best, :2], boxes[others, :2])).clamp(min=0)
        shared = sides.prod(1)
        rest = others[~(shared / (areas[best] + areas[others] - shared) > threshold)].tolist()
    return torch.tensor(kept, dtype=torch.int64)

operators.impl("nms", plain_nms, "CPU")
import torchvision
torchvision.extension._assert_has_ops = lambda: None
torchvision.extension._has_ops = lambda: True
torchvision.ops.boxes._assert_has_ops = lambda: None

torch.manual_seed(0)
torch.set_num_threads(1)
inputs, outputs = load_file(sys.argv[1]), {}
"""
_AFTER = """
save_file({key: tensor.detach().clone().contiguous() for key, tensor in outputs.items()}, sys.argv[2])
"""


def run_reference(script: str, **inputs: Tensor) -> dict[str, Tensor]:
    """Runs Python code beside torchvision; returns the tensors that it put into `outputs`.

    Args:
        script: Code that finds `torch`, `torchvision` and the dict `inputs`, and fills the dict `outputs`.
        inputs: Tensors that the code finds under their names.
    """
    folder = torchvision_folder()
    temporary = FOLDER.parent / f"reference-{os.getpid()}"
    temporary.mkdir(parents=True, exist_ok=True)
    code, given, found = (temporary / name for name in ("script.py", "given.safetensors", "found.safetensors"))
    try:
        code.write_text(_BEFORE + script + _AFTER, encoding="utf-8")
        save_file({key: tensor.detach().clone().contiguous() for key, tensor in inputs.items()}, given)
        environment = os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-W", "ignore", str(code), str(given), str(found)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=SECONDS, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        return load_file(found)
    finally:
        for file in (code, given, found):
            file.unlink(missing_ok=True)
        temporary.rmdir()


@functools.cache
def torchvision_folder() -> Path:
    """Returns the folder in which torchvision lies, fetched once; skips the test where it cannot be fetched."""
    FOLDER.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(str(FOLDER) + ".lock"):
        if not (FOLDER / "torchvision" / "__init__.py").exists():
            reason = _fetch()
            if reason:
                pytest.skip(f"torchvision {VERSION} is not in {FOLDER.name}, and pip cannot fetch it: {reason}")
    return FOLDER


def _fetch() -> str:
    """Unpacks torchvision into its folder; returns why it could not, or nothing."""
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--quiet", "--disable-pip-version-check"]
    command += ["--retries", "1", "--timeout", "15", "--target", str(FOLDER), f"torchvision=={VERSION}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return f"no answer in {SECONDS} seconds"
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["pip failed"])[-1][:200]
