"""The loop as one operation is torch's loop, and tells its memory and its FLOPs before it runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from dougong.nn import scan as scans
from dougong.nn.scan import GATES, scan

KINDS = sorted(GATES)
TORCH = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}
kinds = pytest.mark.parametrize("kind", KINDS)
onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")


def tensors(kind: str, dtype: torch.dtype, bias: bool = True) -> tuple[Tensor, list[Tensor]]:
    rows = GATES[kind] * 6
    shapes = [(rows, 5), (rows, 6), *([(rows,), (rows,)] if bias else [])]
    weights = [torch.randn(shape, dtype=dtype).mul(0.3).requires_grad_() for shape in shapes]
    return torch.randn(3, 9, 5, dtype=dtype, requires_grad=True), weights


def of_torch(kind: str, hidden: Tensor, weights: list[Tensor]) -> Tensor:
    other = TORCH[kind](5, 6, bias=len(weights) == 4, batch_first=True).to(hidden.dtype)
    names = [name for name, _ in other.named_parameters()]
    return torch.func.functional_call(other, dict(zip(names, weights, strict=True)), hidden)[0]


def slopes(states: Tensor, inputs: list[Tensor]) -> tuple[Tensor, ...]:
    weights = torch.arange(states.numel(), dtype=states.dtype).reshape(states.shape).cos()
    return torch.autograd.grad((states * weights).sum(), inputs, retain_graph=True)


@kinds
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
def test_states_and_gradients_are_those_of_torch(kind: str, bias: bool, dtype: torch.dtype, bound: float) -> None:
    hidden, weights = tensors(kind, dtype, bias)
    ours, theirs = scan(kind, hidden, weights), of_torch(kind, hidden, weights)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=bound)
    inputs = [hidden, *weights]
    for one, other in zip(slopes(ours, inputs), slopes(theirs, inputs), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=bound)
    for one, other in zip(slopes(ours, inputs), slopes(ours, inputs), strict=True):
        assert torch.equal(one, other), "a second backward pass must find what the first one found"


@pytest.mark.parametrize("kind", ["gru", "rnn"])
def test_a_gradient_that_forgets_the_earlier_steps_is_noticed(kind: str) -> None:
    hidden, weights = tensors(kind, torch.float64)
    whole = slopes(scan(kind, hidden, weights), [hidden])[0]
    cut = torch.cat([slopes(scan(kind, hidden, weights)[:, 8:], [hidden])[0][:, :8], whole[:, 8:]], dim=1)
    assert (whole - cut).abs().max() > 1e-3


@kinds
def test_without_gradients_the_states_are_the_same(kind: str) -> None:
    hidden, weights = tensors(kind, torch.float32)
    with torch.no_grad():
        alone = scan(kind, hidden, weights)
    torch.testing.assert_close(alone, scan(kind, hidden, weights), rtol=0, atol=1e-6)


@kinds
def test_autocast_does_not_narrow_the_state(kind: str) -> None:
    hidden, weights = tensors(kind, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        states = scan(kind, hidden.bfloat16(), weights)
    assert states.dtype == torch.float32
    torch.testing.assert_close(states, scan(kind, hidden.bfloat16().float(), weights), rtol=0, atol=1e-6)


@kinds
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_flops_are_those_of_the_products_three_times_with_gradient(kind: str, device: str) -> None:
    hidden, weights = tensors(kind, torch.float32)
    hidden, weights = hidden.detach().to(device), [w.detach().to(device).requires_grad_() for w in weights]
    hidden.requires_grad_()
    with FlopCounterMode(display=False) as forward:
        states = scan(kind, hidden, weights)
    assert forward.get_total_flops() == 2 * 3 * 9 * GATES[kind] * 6 * (5 + 6)
    with FlopCounterMode(display=False) as backward:
        states.sum().backward()
    assert backward.get_total_flops() == 2 * forward.get_total_flops()


@kinds
def test_what_is_kept_for_the_backward_pass_is_known_without_running(kind: str) -> None:
    kept = {}
    for fake in (False, True):
        with FakeTensorMode() if fake else torch.enable_grad():
            hidden, weights = tensors(kind, torch.float32)
            sizes: list[int] = []

            def note(tensor: Tensor, sizes: list[int] = sizes) -> Tensor:
                sizes.append(tensor.untyped_storage().nbytes())
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
                scan(kind, hidden, weights)
            kept[fake] = sizes
    assert kept[True] == kept[False]
    assert max(kept[True]) >= 3 * 9 * 6 * 4


@onednn
@pytest.mark.parametrize("shape", [(64, 16, 128, 128), (40, 7, 100, 33), (100, 4, 64, 256)], ids=str)
def test_what_onednn_keeps_is_predicted_from_short_rows(shape: tuple[int, int, int, int]) -> None:
    predicted, real = scans._workspace(*shape), scans._asked(*shape)
    assert predicted == pytest.approx(real, rel=0.02)
    assert scans._workspace(12, *shape[1:]) == scans._asked(12, *shape[1:])
    assert scans._workspace(shape[0] * 2, *shape[1:]) > 1.8 * real, "a size that does not grow must be noticed"


_COMPILED = """
import torch
from dougong.nn.recurrence import Recurrence

for kind in ("rnn", "gru", "lstm"):
    layer = Recurrence(kind, 4, 4, 1, True)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    hidden, mask = torch.randn(2, 30, 4), torch.arange(30) < torch.tensor([[30], [7]])
    found = []
    for run in (layer, torch.compile(layer, backend="aot_eager", fullgraph=True)):
        layer.zero_grad()
        states = run(hidden, mask)
        states.square().sum().backward()
        found.append([states.detach(), *(p.grad.clone() for p in layer.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
print("compiled")
"""


def test_recurrences_compile_whole() -> None:
    # In a process of its own: the checks of shapes that tests install do not survive compilation.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    command = [sys.executable, "-c", _COMPILED]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == "compiled\n"
