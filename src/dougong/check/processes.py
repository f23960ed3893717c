"""Two processes that share a batch give what one gives: what data parallelism rests on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from dougong.check.peer import Sums, leave_work, read_sums, sums_of
from dougong.check.result import Claim, Result
from dougong.check.subject import EXACT, Outcome, Subject, compared, frozen, noisy
from dougong.core.errors import PeerError

CLAIM = Claim("processes", "two processes with half of a batch each give the loss and gradient of one")
SECONDS = 300
LARGE = 1 << 30
"""Bytes of a model from which on the two take turns: each has its own copy, and its gradients."""


def processes(subject: Subject) -> Result:
    """Lets two fresh interpreters compute half a batch each, in fp64, and compares the sums with those of this one."""
    if subject.config.batch_size == 1:
        return CLAIM.skipped("a batch has one example, which cannot be shared.")
    model = subject.stirred().cpu()
    norms = frozen(model)
    batch = subject.rows(4, subject.limits.exact / 2)
    if len(batch) < 2:
        return CLAIM.skipped("there is only one example.")
    batch = noisy(subject, model, batch)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        leave_work(folder, subject.sections, model, batch.split(-(-len(batch) // 2)))
        for ranks in [(0, 1)] if _bytes(model) < LARGE else [(0,), (1,)]:
            _wait({rank: _started(folder, rank) for rank in ranks})
        shares = [read_sums(folder, rank) for rank in (0, 1)]
    difference, worst = compared(_mean(shares), _mean([sums_of(model, subject.task, batch)]))
    return CLAIM.judged(
        difference,
        EXACT,
        f"{worst} of two processes together differs from that of one. Something depends on the process: on the order "
        "of a set, on a number of its own, on the place in the batch.",
        "relative, running statistics" if norms else "relative",
    )


def _bytes(model: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in model.parameters())


def _started(folder: Path, rank: int) -> subprocess.Popen[str]:
    """Starts a process that shares nothing with this one but the folder; `-P` keeps it from importing from here."""
    command = [sys.executable, "-P", "-m", "dougong.check.peer", str(folder), str(rank)]
    environment = {**os.environ, "PYTHONHASHSEED": str(rank + 1), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def _end(code: int) -> str:
    if code >= 0:
        return f"ended with code {code}"
    return f"was killed by {signal.Signals(-code).name}, as the system does when memory runs out"


def _wait(peers: Mapping[int, subprocess.Popen[str]]) -> None:
    """Waits until all are done, which stand by their ranks.

    Raises:
        PeerError: One failed, or takes too long.
    """
    try:
        for rank, peer in peers.items():
            _, text = peer.communicate(timeout=SECONDS)
            if peer.returncode:
                last = (text.strip().split("\n") or [""])[-1][:300]
                raise PeerError(f"process {rank} must finish, but {_end(peer.returncode)}: {last}".removesuffix(": "))
    except subprocess.TimeoutExpired:
        raise PeerError(f"a process must finish its half of a batch in {SECONDS} s, but did not.") from None
    finally:
        for peer in peers.values():
            peer.kill()  # does nothing to one that has ended
            with peer:  # closes its pipe
                pass


def _mean(shares: Sequence[Sums]) -> Outcome:
    """Returns the mean loss and gradient of all shares together, whose gradients are used up."""
    weight = sum(share.weight for share in shares)
    gradients: dict[str, torch.Tensor] = {}
    for share in shares:
        while share.gradients:
            name, gradient = share.gradients.popitem()
            gradient.div_(weight)
            gradients[name] = gradients[name].add_(gradient) if name in gradients else gradient
    return Outcome(sum(share.loss for share in shares) / weight, gradients)
