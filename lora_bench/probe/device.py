"""What a device tells beside its work: who else is at it, what its driver says is used, and the energy it drew."""

from __future__ import annotations

import os
import time
from typing import Any

import psutil

# A process that uses less of a core does not disturb a measurement.
BUSY_SHARE = 0.2
WATCHED_SECONDS = 0.5


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
    return int(nvml.nvmlDeviceGetMemoryInfo(handle).used)


def energy_joules() -> float | str:
    """Energy that the CUDA device has drawn since its driver was loaded, or why it is not known."""
    found = nvml_device()
    if isinstance(found, str):
        return found
    nvml, handle = found
    try:
        return float(nvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1000
    except Exception as error:
        return f"the driver does not tell: {error}"


def company(device_type: str) -> list[str] | None:
    """The other processes at work on the device, as a reader knows them; None where the system does not tell.

    On a CPU these are the processes that used more than a fifth of a core while it was watched for half a second.
    """
    return _on_cuda() if device_type == "cuda" else _on_cpu()


def _on_cuda() -> list[str] | None:
    found = nvml_device()
    if isinstance(found, str):
        return None
    nvml, handle = found
    try:
        running = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
    except Exception:
        return None
    return [_named(process.pid) for process in running if process.pid != os.getpid()]


def _on_cpu() -> list[str]:
    own = {os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))}
    watched = [process for process in psutil.process_iter() if process.pid not in own]
    before = {process.pid: _cpu_seconds(process) for process in watched}
    began = time.perf_counter()
    time.sleep(WATCHED_SECONDS)
    passed = time.perf_counter() - began
    busy = []
    for process in watched:
        share = (_cpu_seconds(process) - before[process.pid]) / passed
        if share > BUSY_SHARE:
            busy.append(f"{_named(process.pid)} at {share:.0%} of a core")
    return busy


def _cpu_seconds(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)


def _named(pid: int) -> str:
    try:
        return f"{psutil.Process(pid).name()} (process {pid})"
    except psutil.Error:
        return f"process {pid}"
