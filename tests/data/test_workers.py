from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from dougong.core.contracts import Batch
from dougong.core.errors import DougongError, FileError, MissingExtra, RecipeError, ResourceError, UsageError
from dougong.data import workers as module
from dougong.data.workers import Workers


def samples(step: int) -> range:
    return range(4 * step, 4 * step + 4)


def plain(step: int) -> Batch:
    return Batch({"value": torch.arange(4) + step}, torch.tensor(samples(step)))


@contextlib.contextmanager
def working(make: Callable[[int], Batch] = plain, count: int = 2) -> Iterator[Workers]:
    with contextlib.closing(Workers(make, samples, count)) as workers:
        yield workers


def is_there(process: int) -> bool:
    """Whether a process lives (a dead one that nobody has waited for yet does not)."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_batch_arrives_bit_by_bit_with_types_shapes_and_names() -> None:
    fields = {
        "tokens": torch.arange(24).reshape(4, 6)[:, :-1],
        "half": torch.tensor([[1.5, float("nan")], [float("inf"), -0.0]], dtype=torch.bfloat16).repeat(2, 1),
        "flags": torch.tensor([True, False, True, True]),
        "bytes": torch.arange(12, dtype=torch.uint8).reshape(4, 3),
        "none": torch.empty(4, 0, 2),
        "single": torch.randn(4, 1, 1, dtype=torch.float64),
        "名": torch.zeros(4, dtype=torch.complex64),
    }
    with working(lambda step: Batch(fields, torch.tensor(samples(step)))) as workers:
        batch = workers.submit(3).result()
    assert list(batch.fields) == list(fields)
    for name, tensor in fields.items():
        assert batch[name].dtype == tensor.dtype
        assert batch[name].shape == tensor.shape
        assert batch[name].contiguous().view(torch.uint8).equal(tensor.contiguous().view(torch.uint8)), name
        assert batch[name].data_ptr() % 64 == 0
    assert batch.samples.tolist() == [12, 13, 14, 15]
    batch["tokens"].add_(1)  # it may be written to, as any batch may
    assert batch.noise is None


def test_a_large_batch_needs_no_room_in_the_line_and_leaves_no_descriptor() -> None:
    before = len(os.listdir("/proc/self/fd"))
    with working(
        lambda step: Batch({"x": torch.full((4, 1 << 20), float(step))}, torch.tensor(samples(step)))
    ) as found:
        asked = [found.submit(step) for step in range(6)]
        assert [int(pending.result()["x"][3, -1]) for pending in asked] == list(range(6))
        for step in range(20):
            found.submit(step).cancel()
        assert found.submit(20).result()["x"][0, 0] == 20
    assert len(os.listdir("/proc/self/fd")) == before


def test_batches_may_be_asked_for_in_any_order_and_forgotten() -> None:
    with working(count=3) as workers:
        asked = {step: workers.submit(step) for step in (7, 2, 9, 2, 0, 30)}
        asked.pop(9).cancel()
        asked[2].cancel()
        again = workers.submit(2)
        for step in (30, 0, 7):
            assert asked[step].result()["value"].tolist() == [step + place for place in range(4)]
        assert again.result().samples.tolist() == [8, 9, 10, 11]


def test_each_worker_makes_its_own_steps_side_by_side() -> None:
    def named(step: int) -> Batch:
        time.sleep(0.2)
        return Batch({"process": torch.full((4,), os.getpid())}, torch.tensor(samples(step)))

    with working(named, 2) as workers:
        asked = [workers.submit(step) for step in range(4)]
        found = [int(pending.result()["process"][0]) for pending in asked]
        assert found == workers.processes * 2
    assert os.getpid() not in found


def test_workers_are_gone_at_the_end_even_out_of_a_long_batch() -> None:
    def endless(step: int) -> Batch:
        time.sleep(600)
        raise AssertionError

    with working(endless) as workers:
        processes = workers.processes
        workers.submit(0)
        time.sleep(0.1)
        begin = time.monotonic()
    assert time.monotonic() - begin < 10
    assert not [process for process in processes if Path(f"/proc/{process}").exists()]  # nor are they zombies


ERRORS = {
    "file": FileError("row 3 must be whole, but is not. Fetch it again.", name="E-ROW"),
    "usage": UsageError("a must be b."),
    "recipe": RecipeError(["a must be b.", "c must be d."]),
    "extra": MissingExtra("parquet", "parquet"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_a_dougong_error_keeps_kind_name_code_and_sentence(name: str) -> None:
    error = ERRORS[name]

    def broken(step: int) -> Batch:
        raise error

    with (
        working(broken) as workers,
        pytest.raises(type(error).__mro__[1] if name in ("recipe", "extra") else type(error)) as caught,
    ):
        workers.submit(5).result()
    assert (caught.value.exit_code, caught.value.name) == (error.exit_code, error.name)
    assert str(caught.value).startswith(str(error).rstrip("."))
    assert str(caught.value).endswith("Met by worker 1 while making samples 20 to 23 (step 6).")


class Own(FileError):
    """An error that somebody else has defined."""

    exit_code = 9


OTHERS: dict[str, tuple[Exception, type[DougongError], str]] = {
    "value": (ValueError("no picture\nmore"), FileError, "worker 0 met ValueError: no picture, while making samples 8"),
    "silent": (KeyError(), FileError, "KeyError: no more is known, while making samples 8 to 11"),
    "memory": (MemoryError("full"), ResourceError, "must have room for the batches, but worker 0 met MemoryError"),
    "disk": (OSError(errno.ENOSPC, "No space"), ResourceError, "OSError: .*No space"),
    "own": (Own("a must be b."), FileError, "a must be b"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_any_other_error_is_one_sentence_with_the_worker_and_the_samples(name: str) -> None:
    error, kind, text = OTHERS[name]

    def broken(step: int) -> Batch:
        if step == 2:
            raise error
        return plain(step)

    with working(broken) as workers:
        asked = [workers.submit(step) for step in range(5)]
        assert asked[1].result().samples.tolist() == [4, 5, 6, 7]
        with pytest.raises(kind, match=text) as caught:
            asked[2].result()
        assert "Traceback" not in str(caught.value)
        assert "\n" not in str(caught.value)
        assert asked[4].result().samples.tolist() == [16, 17, 18, 19]  # the others are as they were


def test_the_traceback_is_shown_to_whoever_asks_for_it(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(step: int) -> Batch:
        raise ValueError("no picture")

    for wanted in ("0", "1"):
        monkeypatch.setenv("DOUGONG_DEBUG", wanted)
        with working(broken) as workers, pytest.raises(FileError):
            workers.submit(0).result()
        assert ("Traceback" in capfd.readouterr().err) == (wanted == "1")


def test_a_worker_that_is_killed_is_named_with_what_it_was_making() -> None:
    def slow(step: int) -> Batch:
        time.sleep(600 if step == 5 else 0)
        return plain(step)

    with working(slow) as workers:
        asked = [workers.submit(step) for step in range(6)]
        assert asked[3].result().samples.tolist() == [12, 13, 14, 15]
        process = workers.processes[1]
        os.kill(process, signal.SIGKILL)
        while is_there(process):
            time.sleep(0.01)
        with pytest.raises(ResourceError, match="while making samples 20 to 23 \\(step 6\\)") as caught:
            asked[4].result()  # though another makes that one
        assert (caught.value.exit_code, caught.value.name) == (4, "E-WORKER")
        assert f"worker 1 (process {process}) must live as long as the run, but was killed by SIGKILL" in str(
            caught.value
        )


def test_a_worker_that_ends_by_itself_is_missed_even_if_it_had_nothing_to_do() -> None:
    def leaving(step: int) -> Batch:
        os._exit(3)

    with working(leaving) as workers, pytest.raises(ResourceError, match=r"worker 0 .* but ended with code 3 while ma"):
        workers.submit(0).result()
    with working() as workers:
        os.kill(workers.processes[0], signal.SIGKILL)
        while is_there(workers.processes[0]):
            time.sleep(0.01)
        for step in (1, 0, 1):  # and is missed by whoever asks once more
            with pytest.raises(ResourceError, match="worker 0 .* was killed by SIGKILL while"):
                workers.submit(step).result()


def test_signals_that_stop_a_run_do_not_stop_its_workers() -> None:
    with working() as workers:
        workers.submit(0).result(), workers.submit(1).result()
        for process in workers.processes:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
                os.kill(process, number)
        assert [workers.submit(step).result().samples[0] for step in (2, 3)] == [8, 12]


PROGRAM = """
import sys, time
sys.path.insert(0, sys.argv[1])
from tests.data.test_workers import plain, samples
from dougong.data import workers as module
if sys.argv[2] == "without":
    module._end_with = lambda parent: lambda: None

def endless(step):
    time.sleep(600)

workers = module.Workers(endless, samples, 2)
for step in (0, 1):
    workers.submit(step)
print(*workers.processes, flush=True)
time.sleep(600)
"""


def orphans(protection: str) -> list[int]:
    """Kills a process with two busy workers; returns those that are left after two seconds at most, and ends them."""
    command = [sys.executable, "-c", PROGRAM, str(Path(__file__).parents[2]), protection]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        found = [int(word) for word in process.stdout.readline().split()]
        assert len(found) == 2
        assert all(is_there(worker) for worker in found)
        process.kill()
    deadline = time.monotonic() + 2
    while any(is_there(worker) for worker in found) and time.monotonic() < deadline:
        time.sleep(0.02)
    left = [worker for worker in found if is_there(worker)]
    for worker in left:
        os.kill(worker, signal.SIGKILL)
    return left


def test_no_worker_outlives_a_run_that_is_killed() -> None:
    assert orphans("with") == []


def test_without_the_bond_to_their_owner_busy_workers_would_live_on() -> None:
    assert len(orphans("without")) == 2


def test_a_worker_computes_on_one_thread_and_sees_the_data_in_place() -> None:
    data = np.arange(1000)

    def looking(step: int) -> Batch:
        return Batch({"threads": torch.full((4,), torch.get_num_threads())}, torch.from_numpy(data[:4] + step))

    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with working(looking) as workers:
            data[:] = 0  # after the fork: the worker has its own view, and nobody has copied a thing
            batch = workers.submit(1).result()
    finally:
        torch.set_num_threads(threads)
    assert batch["threads"].tolist() == [1] * 4
    assert batch.samples.tolist() == [1, 2, 3, 4]


def test_no_generator_moves_when_workers_start() -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    with working() as workers:
        workers.submit(0).result()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])


def test_a_system_that_starts_no_process_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> int:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(module, "_fork", refused)
    with pytest.raises(ResourceError, match="number 0 cannot be: Resource temporarily unavailable"):
        Workers(plain, samples, 2)
    assert len(os.listdir("/proc/self/fd")) == before
    monkeypatch.delattr(os, "fork")
    with pytest.raises(UsageError, match="a system that can fork"):
        Workers(plain, samples, 2)


def test_where_memory_without_a_file_is_not_to_be_had_a_nameless_file_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    with working() as workers:
        assert workers.submit(2).result()["value"].tolist() == [2, 3, 4, 5]
