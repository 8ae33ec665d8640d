"""What a device tells beside its work: who else is at it, what its driver says is used, and the energy it drew."""

from __future__ import annotations

import os
import time
from typing import Any, Literal

import psutil

# A process that uses less of a core does not disturb a measurement.
BUSY_SHARE = 0.2
WATCHED_SECONDS = 0.5

HOST_IS_DEVICE = "host and device are one"


def nvml_device() -> tuple[Any, Any] | str:
    """NVML and its handle of the first CUDA device that this process may use, or why there is none."""
    try:
        import pynvml
    except ImportError:
        return "the package nvidia-ml-py is not installed"
    try:
        pynvml.nvmlInit()
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip() or "0"
        if visible.isdecimal():
            return pynvml, pynvml.nvmlDeviceGetHandleByIndex(int(visible))
        return pynvml, pynvml.nvmlDeviceGetHandleByUUID(visible)
    except Exception as error:  # NVML's errors are of many classes, and all mean that the driver does not tell
        return f"the driver does not tell: {error}"


def used_bytes() -> int | None:
    """Bytes used on the CUDA device by all processes, or None where its driver does not tell."""
    found = nvml_device()
    if isinstance(found, str):
        return None
    nvml, handle = found
    try:
        return int(nvml.nvmlDeviceGetMemoryInfo(handle).used)
    except Exception:
        return None


class EnergyMeter:
    """The energy that a device draws within this block.

    Attributes:
        joules: What it drew, or None.
        reason: Why that is not known, or None.
    """

    def __init__(self, device_type: Literal["cpu", "cuda"]) -> None:
        self.joules: float | None = None
        self.reason: str | None = None
        self._device = nvml_device() if device_type == "cuda" else HOST_IS_DEVICE
        self._before = 0.0

    def __enter__(self) -> EnergyMeter:
        self._before = self._total() or 0.0
        return self

    def __exit__(self, *error: object) -> None:
        after = self._total()
        self.joules = None if after is None or self.reason is not None else after - self._before

    def _total(self) -> float | None:
        """Joules since the driver was loaded, or None, the reason noted."""
        if isinstance(self._device, str):
            self.reason = self._device
            return None
        nvml, handle = self._device
        try:
            return float(nvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1000
        except Exception as error:
            self.reason = f"the driver does not tell: {error}"
            return None


class Company:
    """Watches, from its making on, which other processes are at work on a device."""

    def __init__(self, device_type: Literal["cpu", "cuda"]) -> None:
        self.device_type = device_type
        self._began = time.perf_counter()
        self._before = _cpu_seconds() if device_type == "cpu" else {}
        # Taken before this process has work on the device, so that whoever is there is another.
        self._there = _on_cuda() if device_type == "cuda" else None

    def seen(self) -> list[str] | None:
        """Each of them as a reader knows it; None where the system does not tell.

        On a CPU these are the processes that used more than a fifth of a core on average; on a CUDA device, those that
        were there when the watch began, and those that are there now.
        """
        if self.device_type == "cuda":
            now = _on_cuda() or {}
            if self._there is None:
                return None
            # In a container the driver may number processes otherwise, and this one is then not to be told from others.
            new = {pid: name for pid, name in now.items() if pid != os.getpid()} if os.getpid() in now else {}
            return list({**self._there, **new}.values())
        passed = time.perf_counter() - self._began
        own = {os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))}
        shares = {
            pid: (seconds - self._before.get(pid, 0.0)) / passed
            for pid, seconds in _cpu_seconds().items()
            if pid not in own
        }
        return [f"{_named(pid)} at {share:.0%} of a core" for pid, share in shares.items() if share > BUSY_SHARE]


def company(device_type: Literal["cpu", "cuda"]) -> list[str] | None:
    """Who else is at work on a device; a CPU is watched for half a second."""
    watch = Company(device_type)
    if device_type == "cpu":
        time.sleep(WATCHED_SECONDS)
    return watch.seen()


def _on_cuda() -> dict[int, str] | None:
    """The processes with work on the CUDA device by their numbers, or None where its driver does not tell."""
    found = nvml_device()
    if isinstance(found, str):
        return None
    nvml, handle = found
    try:
        running = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
    except Exception:
        return None
    return {process.pid: _named(process.pid) for process in running}


def _cpu_seconds() -> dict[int, float]:
    """Seconds of a core that every process has used."""
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
