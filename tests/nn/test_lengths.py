"""The arithmetic of windows is what counting windows gives, of ints and of tensors, and needs no torch."""

from __future__ import annotations

import subprocess
import sys
from math import ceil

import pytest
import torch

from dougong.nn.lengths import Window

WINDOWS = [
    Window(kernel, stride, dilation, padding)
    for kernel in (1, 2, 3, 4, 7)
    for stride in (1, 2, 3)
    for dilation in (1, 2)
    for padding in ("centred", "causal", "none")
]


def counted(window: Window, length: int) -> int:
    """Slides the window from its first position until it no longer fits between the padding's ends."""
    starts = range(-window.before, length + window.after - window.reach, window.stride)
    return len(starts)


@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_length_is_the_number_of_windows(window: Window) -> None:
    lengths = range(1, 30)
    assert [window.length(n) for n in lengths] == [counted(window, n) for n in lengths]
    assert window.length(torch.tensor(lengths)).tolist() == [window.length(n) for n in lengths]


@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_length_is_the_formula(window: Window) -> None:
    for n in range(30):
        if window.padding == "none":
            expected = max(0, (n - window.dilation * (window.kernel - 1) - 1) // window.stride + 1)
        else:
            expected = ceil(n / window.stride)
        assert window.length(n) == expected


def test_what_is_in_the_middle_of_a_window_is_said_by_its_padding() -> None:
    assert [Window(3, padding=p).before for p in ("centred", "causal", "none")] == [1, 2, 0]
    assert [Window(4, padding=p).before for p in ("centred", "causal", "none")] == [1, 3, 0]
    assert [(Window(k, 1, 2).before, Window(k, 1, 2).after) for k in (2, 3, 4)] == [(0, 2), (2, 2), (2, 4)]


def test_a_padding_that_depends_on_the_length_would_be_noticed() -> None:
    # What TensorFlow calls "same" moves the window with the length: 3 by 2 over 4 places begins at 0, over 5 at -1.
    same = {n: max(0, (ceil(n / 2) - 1) * 2 + 3 - n) // 2 for n in (4, 5)}
    assert same == {4: 0, 5: 1}
    assert Window(3, 2).before == 1


def test_no_torch_is_imported() -> None:
    code = "import sys, dougong.nn.lengths; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
