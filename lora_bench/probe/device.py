"""Readings of a device: other processes on it, used memory by its driver, and energy."""

import contextlib
import os
import time
from collections.abc import Callable
from typing import Any, Self, TypeVar

import psutil

from lora_bench.records.environment import CudaDevice

# A process that uses a smaller share of a core does not disturb a measurement.
BUSY_SHARE = 0.2
WATCHED_SECONDS = 0.5

HOST_IS_DEVICE = "host and device are one"

ReadT = TypeVar("ReadT")


def nvml_device(card: CudaDevice) -> tuple[Any, Any] | str:
    """Return NVML's handle of a CUDA device, found by UUID as both number cards in their own order, or the reason why not."""
    try:
        import pynvml
    except ImportError:
        return "the package nvidia-ml-py is not installed"
    try:
        pynvml.nvmlInit()
        return pynvml, _handle(pynvml, card)
    except Exception as error:  # NVML has many classes of errors, and all mean that the driver does not tell
        return f"the driver does not tell: {error}"


def has_bfloat16() -> bool:
    """Return True if the CUDA device multiplies in bfloat16 itself; older ones, such as T4 and V100, only emulate it."""
    import torch

    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def _handle(nvml: Any, card: CudaDevice) -> Any:
    """Return NVML's handle of a card, or of the part of a card that MIG made; NVML must know it."""
    with contextlib.suppress(Exception):
        return nvml.nvmlDeviceGetHandleByUUID(f"MIG-{card.uuid}")
    whole = nvml.nvmlDeviceGetHandleByUUID(f"GPU-{card.uuid}")
    parts = _parts(nvml, whole)
    if not parts:
        return whole
    # Some releases of CUDA give the UUID of the whole card for each of its parts.
    named = [part for uuid, part in parts.items() if card.visible.startswith("MIG-") and uuid.startswith(card.visible)]
    if len(named) != 1:
        raise LookupError("the card is divided by MIG; name one part of it by its UUID in CUDA_VISIBLE_DEVICES")
    return named[0]


def _parts(nvml: Any, card: Any) -> dict[str, Any]:
    """Return the handles of the parts that MIG made of a card, by UUID; empty for a whole card."""
    found: dict[str, Any] = {}
    with contextlib.suppress(Exception):  # cards without MIG raise
        if not nvml.nvmlDeviceGetMigMode(card)[0]:
            return found
        for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(card)):
            with contextlib.suppress(Exception):  # a place without a part
                part = nvml.nvmlDeviceGetMigDeviceHandleByIndex(card, index)
                uuid = nvml.nvmlDeviceGetUUID(part)
                found[uuid.decode() if isinstance(uuid, bytes) else uuid] = part
    return found


def _told(device: tuple[Any, Any] | str, read: Callable[[Any, Any], ReadT]) -> ReadT | str:
    """Return what *read* gets of NVML and its handle of a device, or the reason why it gets nothing."""
    if isinstance(device, str):
        return device
    try:
        return read(*device)
    except Exception as error:
        return f"the driver does not tell: {error}"


def used_bytes(card: CudaDevice) -> int | None:
    """Return the bytes used on a CUDA device by all processes, or None if its driver does not tell."""
    used = _told(nvml_device(card), lambda nvml, handle: int(nvml.nvmlDeviceGetMemoryInfo(handle).used))
    return None if isinstance(used, str) else used


class EnergyMeter:
    """Measures the joules that a CUDA device uses in this block; None, with the *reason*, where it does not tell."""

    def __init__(self, card: CudaDevice | None) -> None:
        self.joules: float | None = None
        self.reason: str | None = None
        self._device = nvml_device(card) if card is not None else HOST_IS_DEVICE
        self._before = 0.0

    def __enter__(self) -> Self:
        self._before = self._total() or 0.0
        return self

    def __exit__(self, *error: object) -> None:
        after = self._total()
        self.joules = None if after is None or self.reason is not None else after - self._before

    def _total(self) -> float | None:
        """Return the joules since the driver was loaded, or None with the reason recorded."""
        found = _told(self._device, lambda nvml, handle: float(nvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1000)
        if isinstance(found, str):
            self.reason = found
            return None
        return found


class Company:
    """Watches, from its creation on, for other processes on a CUDA device, or on the CPU."""

    def __init__(self, card: CudaDevice | None) -> None:
        self.card = card
        self._began = time.perf_counter()
        self._before = _cpu_seconds() if card is None else {}
        # Read before this process uses the device, so that every process on it is another one.
        self._there = _on_cuda(card) if card is not None else None

    def seen(self) -> list[str] | None:
        """Describe each other process; None if the system does not tell.

        On a CPU these are the processes that used more than a fifth of a core on average. On a CUDA device they are those
        present when the watch began, and those present now.
        """
        if self.card is not None:
            now = _on_cuda(self.card)
            if self._there is None or now is None:
                return None
            if os.getpid() in now:
                others = {**self._there, **now}
                del others[os.getpid()]
                return list(others.values())
            # A driver that does not name this process, as in a container, may hide others or number them differently.
            return list(self._there.values()) or None
        passed = time.perf_counter() - self._began
        own = {os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))}
        shares = {
            pid: (seconds - self._before.get(pid, 0.0)) / passed
            for pid, seconds in _cpu_seconds().items()
            if pid not in own
        }
        return [f"{_named(pid)} at {share:.0%} of a core" for pid, share in shares.items() if share > BUSY_SHARE]


def company(card: CudaDevice | None) -> list[str] | None:
    """Describe the other processes on a CUDA device, or on the CPU, which is watched for half a second."""
    watch = Company(card)
    if card is None:
        time.sleep(WATCHED_SECONDS)
    return watch.seen()


def _on_cuda(card: CudaDevice) -> dict[int, str] | None:
    """Return the processes on a CUDA device by number, or None if its driver does not tell."""
    running = _told(nvml_device(card), lambda nvml, handle: nvml.nvmlDeviceGetComputeRunningProcesses(handle))
    return None if isinstance(running, str) else {process.pid: _named(process.pid) for process in running}


def _cpu_seconds() -> dict[int, float]:
    """Return the seconds of a core that every process has used."""
    found = {}
    for process in psutil.process_iter():
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        found[process.pid] = float(times.user + times.system)
    return found


def _named(pid: int) -> str:
    try:
        return f"{psutil.Process(pid).name()} (process {pid})"
    except psutil.Error:
        return f"process {pid}"
