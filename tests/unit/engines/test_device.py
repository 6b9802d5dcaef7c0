"""The device: turns are fair, and torch's errors leave it as ours."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

from shared.errors import EngineError, OutOfMemory
from tests.support.polling import PATIENCE_S, eventually
from worker.engines.scheduling import memory
from worker.engines.scheduling.device import Device
from worker.engines.scheduling.device_lock import DeviceLock, FifoLock
from worker.models.errors import ShapeError


def test_turns_are_taken_in_the_order_of_asking() -> None:
    lock = FifoLock()
    order: list[int] = []
    lock.acquire()
    threads = []
    for number in range(5):

        def take(number: int = number) -> None:
            lock.acquire()
            order.append(number)
            lock.release()

        thread = threading.Thread(target=take)
        thread.start()
        threads.append(thread)
        eventually(lambda wanted=number + 1: len(lock._waiting) == wanted)  # type: ignore[misc]
    lock.release()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert order == [0, 1, 2, 3, 4]


def test_two_jobs_advance_side_by_side() -> None:
    device = Device("cpu", 1)
    taken: list[str] = []
    both = threading.Barrier(2)

    def job(name: str) -> None:
        both.wait()
        for _ in range(20):
            with device.step(name):
                taken.append(name)
                # the other asks meanwhile; it must be next
                eventually(lambda: len(device.device_lock._waiting) == 1 or taken.count("a") + taken.count("b") >= 38)

    threads = [threading.Thread(target=job, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert taken[:30] in (["a", "b"] * 15, ["b", "a"] * 15)


def test_it_is_known_who_waits_and_who_moved() -> None:
    device_lock = DeviceLock()
    me = threading.get_ident()
    assert device_lock.moved_at(me) == 0.0
    device_lock.acquire()
    began = device_lock.moved_at(me)
    assert began > 0
    other = threading.Thread(target=lambda: (device_lock.acquire(), device_lock.release()))
    other.start()
    eventually(lambda: other.ident is not None and device_lock.is_waiting(other.ident))
    assert not device_lock.is_waiting(me)
    device_lock.release()
    other.join(PATIENCE_S)
    assert other.ident is not None
    assert not device_lock.is_waiting(other.ident)
    assert device_lock.moved_at(other.ident) >= began


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), OutOfMemory),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate"), OutOfMemory),
        (RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"), OutOfMemory),
        (RuntimeError("CUDA error: misaligned address in allocated block"), RuntimeError),
        (ShapeError("odd"), EngineError),
        (RuntimeError("something else"), RuntimeError),
    ],
)
def test_errors_leave_as_ours(raised: Exception, expected: type[Exception]) -> None:
    device = Device("cpu", 1)
    with pytest.raises(expected), device.step("dalle"):
        raise raised
    with device.step("dalle"):
        pass  # the turn was given back


def test_a_real_allocation_that_does_not_fit() -> None:
    device = Device("cpu", 1)
    with pytest.raises(OutOfMemory), device.step("dalle"):
        torch.empty(2**50, dtype=torch.uint8)


def test_short_steps_share_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("worker.engines.scheduling.device.time.monotonic", lambda: now[0])
    seen: list[float] = []
    device = Device("cpu", 1, lambda _kind, seconds: seen.append(round(seconds, 3)))
    with device.turn("dalle") as turn:
        while turn.has_time:
            now[0] += 0.02
            turn.stepped()
    assert seen == [0.02] * 3


def test_steps_are_counted() -> None:
    seen: list[tuple[str, bool]] = []
    device = Device("cpu", 1, lambda kind, seconds: seen.append((kind, seconds >= 0)))
    with device.step("rank"):
        pass
    assert seen == [("rank", True)]


def test_memory_is_the_containers_where_that_is_less(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal:  9000 kB\nMemAvailable:    5000 kB\n")
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("4096\n")
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    assert memory.available_bytes() == 5000 * 1024
    (tmp_path / "memory.max").write_text("1000000\n")
    assert memory.available_bytes() == 1_000_000 - 4096
    assert min(memory.resident_bytes(), memory.peak_bytes()) > 10 * 2**20


def test_a_limit_leaves_what_the_process_does_not_hold() -> None:
    held = memory.resident_bytes()
    device = Device("cpu", memory_bytes=held + 1000 * 2**20)
    assert 700 * 2**20 < device.free_bytes() < 850 * 2**20  # less the reserve
    assert device.slots(2**20 * 200) in (3, 4)
    assert device.slots(1) == device.rows
    with pytest.raises(OutOfMemory, match=r"one row takes 2000\.0 MiB, cpu has \d+\.\d MiB free"):
        device.slots(2**20 * 2000)
