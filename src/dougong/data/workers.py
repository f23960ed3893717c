"""Processes that make batches, and how a batch travels out of one: through memory that both sides map.

Knows a function from a step to a batch, and processes; knows no order, dataset or task. What a worker makes depends on
the step alone, so neither their number nor their speed changes a value.

Workers are forked: they start in milliseconds, need no copy of the data (a tokenized text stays mapped once for all),
no import and no `__main__` that may be run again. A fork of a process with threads must not touch what those threads
may hold: so a worker computes on one thread, never on an accelerator, and leaves by the system's exit alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import mmap
import os
import selectors
import signal
import socket
import struct
import sys
import tempfile
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from dougong.core import errors
from dougong.core.contracts import Batch
from dougong.core.errors import DougongError, FileError, ResourceError, UsageError

_MESSAGE = struct.Struct("<qq")
"""To a worker: ticket, step. From it, with the memory's descriptor: ticket, length of the head."""
_ALIGNED = 64
"""Where tensors begin, in bytes: as the allocator of torch has it, so that no kernel takes another path."""


class Pending:
    """A batch in the making."""

    def __init__(self, workers: Workers, ticket: int):
        self._workers, self._ticket = workers, ticket

    def result(self) -> Batch:
        """Returns the batch once it is there.

        Raises:
            DougongError: What the worker met while making it, or that a worker is gone.
        """
        return self._workers.wait(self._ticket)

    def cancel(self) -> None:
        """Nobody will ask for it any more."""
        self._workers.forget(self._ticket)


class Workers:
    """Processes that make batches; worker `step % count` makes that of `step`.

    They end with `close()`, and with this process, however it ends.

    Args:
        make: Makes the batch of a step; runs in the workers.
        samples: Gives the numbers of the examples of a step; for messages.
        count: How many processes.

    Raises:
        UsageError: The system has no fork.
        ResourceError: The system starts no further process.
    """

    def __init__(self, make: Callable[[int], Batch], samples: Callable[[int], range], count: int):
        self.make, self.samples = make, samples
        self._selector = selectors.DefaultSelector()
        self._workers: list[_Worker] = []
        self._tickets = 0
        self._replies: dict[int, tuple[mmap.mmap, int] | None] = {}
        try:
            for number in range(count):
                self._start(number)
        except BaseException:
            self.close()
            raise

    @property
    def processes(self) -> list[int]:
        """The workers' process numbers."""
        return [worker.process for worker in self._workers]

    def submit(self, step: int) -> Pending:
        """Asks for the batch of a step."""
        worker, self._tickets = self._workers[step % len(self._workers)], self._tickets + 1
        self._replies[self._tickets] = None
        worker.asked.append((self._tickets, step))
        with contextlib.suppress(ConnectionError):  # that a worker is gone is told where a batch is waited for
            worker.line.sendall(_MESSAGE.pack(self._tickets, step))
        return Pending(self, self._tickets)

    def wait(self, ticket: int) -> Batch:
        """Returns the batch of a ticket; notices at once if any worker is gone."""
        self._receive(timeout=0.0)
        while (reply := self._replies[ticket]) is None:
            self._receive(timeout=None)
        self.forget(ticket)
        return _unpacked(*reply)

    def forget(self, ticket: int) -> None:
        """Drops a batch, made or not."""
        self._replies.pop(ticket, None)

    def close(self) -> None:
        """Ends the workers, whatever they are doing: they hold nothing that could be lost."""
        for worker in self._workers:
            worker.end()
            worker.line.close()
        self._selector.close()
        self._workers, self._replies = [], {}

    def _start(self, number: int) -> None:
        if not hasattr(os, "fork"):
            raise UsageError("train.workers needs a system that can fork, but this one cannot. Set it to 0.")
        mine, theirs = socket.socketpair()
        end_with_parent = _end_with(os.getpid())
        try:
            process = _fork()
        except OSError as error:
            mine.close()
            theirs.close()
            raise ResourceError(
                f"train.workers must be processes that the system can start, but number {number} cannot be: "
                f"{error.strerror}. Lower train.workers, or close other programs."
            ) from error
        if not process:
            try:
                end_with_parent()
                for line in (mine, *(worker.line for worker in self._workers)):
                    line.close()
                self._work(number, theirs)
            finally:
                os._exit(1)
        theirs.close()
        self._workers.append(_Worker(number, process, mine))
        self._selector.register(mine, selectors.EVENT_READ, self._workers[-1])

    def _work(self, number: int, line: socket.socket) -> None:
        """A worker's life: takes a step, makes its batch, sends it; until nobody asks any more.

        Signals that ask the run to stop are for its owner, who finishes the step, for which it needs a batch.
        """
        for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
        gc.freeze()  # what was inherited is never looked at, let alone cleared away, here
        torch.set_num_threads(1)
        with contextlib.suppress(ConnectionError):
            while message := line.recv(_MESSAGE.size):
                ticket, step = _MESSAGE.unpack(message)
                try:
                    length, descriptor = _packed(*_described(self.make(step)))
                except Exception as error:
                    if os.environ.get("DOUGONG_DEBUG") == "1":
                        traceback.print_exception(error)
                    length, descriptor = _packed(_explained(error, f"worker {number}", self._place(step)), [])
                socket.send_fds(line, [_MESSAGE.pack(ticket, length)], [descriptor])
                os.close(descriptor)

    def _place(self, step: int) -> str:
        numbers = self.samples(step)
        return f"samples {numbers[0]} to {numbers[-1]} (step {step + 1})"

    def _receive(self, timeout: float | None) -> None:
        """Takes in what workers have sent.

        Raises:
            ResourceError: A worker is gone.
        """
        for key, _ in self._selector.select(timeout):
            worker: _Worker = key.data
            try:
                message, descriptors, _, _ = socket.recv_fds(worker.line, _MESSAGE.size, 1)
            except ConnectionError:
                message, descriptors = b"", []
            if not descriptors:
                raise self._gone(worker)
            worker.asked.popleft()
            ticket, length = _MESSAGE.unpack(message)
            try:
                if ticket in self._replies:
                    self._replies[ticket] = mmap.mmap(descriptors[0], 0), length
            finally:
                os.close(descriptors[0])

    def _gone(self, worker: _Worker) -> ResourceError:
        process, code = worker.process, worker.end()
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        what = f"while making {self._place(worker.asked[0][1])}" if worker.asked else "while it had nothing to do"
        return ResourceError(
            f"worker {worker.number} (process {process}) must live as long as the run, but {how} {what}. When memory "
            "runs out, the system kills so: lower train.workers or train.batch_size, or free memory; then go on with "
            "--resume.",
            name="E-WORKER",
        )


class _Worker:
    """One process as its owner sees it.

    Attributes:
        number: Its place among the workers.
        process: Its process number.
        line: What it is asked through, and answers through.
        asked: Tickets and steps of what it was asked for and has not yet sent, in order.
    """

    def __init__(self, number: int, process: int, line: socket.socket):
        self.number, self.process, self.line = number, process, line
        self.asked: deque[tuple[int, int]] = deque()
        self._code: int | None = None

    def end(self) -> int:
        """Ends the process, if it still lives; returns its exit code, or minus the signal that killed it."""
        if self._code is None:
            try:
                os.kill(self.process, signal.SIGKILL)
                self._code = os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])
            except (ProcessLookupError, ChildProcessError):  # somebody else has waited for it
                self._code = -int(signal.SIGKILL)
        return self._code


def _fork() -> int:
    """Forks without Python's warning that there are threads: the worker touches nothing that they may hold."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _end_with(parent: int) -> Callable[[], None]:
    """Returns what a new process calls so that it ends when `parent` does, even if that was killed.

    Elsewhere than on Linux it ends with the batch it is making, as nobody is there to send it to.
    """
    if not sys.platform.startswith("linux"):
        return lambda: None
    prctl, die_with_parent = ctypes.CDLL(None).prctl, 1  # PR_SET_PDEATHSIG

    def arrange() -> None:
        prctl(die_with_parent, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return arrange


def _described(batch: Batch) -> tuple[dict[str, Any], list[Tensor]]:
    """Returns what is written at the head of a batch's memory, and the tensors that follow."""
    named = {**batch.fields, "": batch.samples}
    sizes = [tensor.numel() * tensor.element_size() for tensor in named.values()]
    forms = [(name, str(t.dtype).removeprefix("torch."), list(t.shape)) for name, t in named.items()]
    return {"tensors": forms, "bytes": sizes}, list(named.values())


def _packed(head: Mapping[str, Any], tensors: list[Tensor]) -> tuple[int, int]:
    """Returns the length of the head, and a descriptor of memory that holds the head and then the tensors."""
    raw = json.dumps(head).encode()
    starts = _starts(len(raw), head.get("bytes", []))
    descriptor = _new_memory()
    try:
        os.truncate(descriptor, starts[-1])
        memory = mmap.mmap(descriptor, starts[-1])
        memory[: len(raw)] = raw
        for tensor, start in zip(tensors, starts, strict=False):
            if tensor.numel():
                _view(memory, tensor.dtype, tuple(tensor.shape), start).copy_(tensor)
    except BaseException:
        os.close(descriptor)
        raise
    return len(raw), descriptor


def _unpacked(memory: mmap.mmap, length: int) -> Batch:
    """Returns the batch in a memory, without a copy.

    Raises:
        DougongError: There is an error in it.
    """
    head = json.loads(memory[:length])
    if "error" in head:
        raise _rebuilt(**head["error"])
    tensors = {
        name: _view(memory, getattr(torch, dtype), tuple(shape), start)
        for (name, dtype, shape), start in zip(head["tensors"], _starts(length, head["bytes"]), strict=False)
    }
    samples = tensors.pop("")
    return Batch(tensors, samples)


def _view(memory: mmap.mmap, dtype: torch.dtype, shape: tuple[int, ...], start: int) -> Tensor:
    count = 1
    for size in shape:
        count *= size
    if not count:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(memory, dtype=dtype, count=count, offset=start).reshape(shape)


def _starts(head: int, sizes: list[int]) -> list[int]:
    """Returns where each tensor starts, and last where all ends."""
    starts = [-(-head // _ALIGNED) * _ALIGNED]
    for size in sizes:
        starts.append(-(-(starts[-1] + size) // _ALIGNED) * _ALIGNED)
    return starts


def _new_memory() -> int:
    """Returns a descriptor of memory without a name: it is gone with the last process that maps it."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("dougong-batch")
    descriptor, path = tempfile.mkstemp(prefix="dougong-batch-")
    os.unlink(path)
    return descriptor


def _explained(error: Exception, worker: str, place: str) -> dict[str, Any]:
    """Returns an error as data: a dougong error keeps its kind and sentence, others are told in one."""
    if isinstance(error, DougongError):
        known = (kind for kind in type(error).__mro__ if getattr(errors, kind.__name__, None) is kind)
        plain = next(kind for kind in known if kind.__init__ is DougongError.__init__)
        text = f"{str(error).rstrip('.')}. Met by {worker} while making {place}."
        return {"error": {"kind": plain.__name__, "name": error.name, "text": text}}
    what = (str(error).strip().split("\n")[0].rstrip(".") or "no more is known")[:200]
    what = f"but {worker} met {type(error).__name__}: {what}, while making {place}."
    if isinstance(error, MemoryError | OSError):
        text = f"the machine must have room for the batches, {what} Lower train.workers, or free memory and disk."
        return {"error": {"kind": ResourceError.__name__, "name": "E-WORKER", "text": text}}
    text = (
        f"every sample must be fit to become part of a batch, {what} Look at these samples; "
        "train.workers=0 with DOUGONG_DEBUG=1 shows where it happens."
    )
    return {"error": {"kind": FileError.__name__, "name": "E-DATA", "text": text}}


def _rebuilt(kind: str, name: str, text: str) -> DougongError:
    error: DougongError = getattr(errors, kind)(text, name=name)
    return error
