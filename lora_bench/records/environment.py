"""The machine and packages of a run: enough to repeat it, without names of people, hosts or folders."""

import functools
import itertools
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from lora_bench.errors import LoraBenchError
from lora_bench.records.record import Environment
from lora_bench.util.child_process import our_command
from lora_bench.version import __version__

PACKAGES = ("torch", "transformers", "peft", "accelerate", "datasets", "numpy", "scikit-learn", "tokenizers")
# Named only where they are installed.
OPTIONAL = ("bitsandbytes",)
NOT_INSTALLED = "not installed"

# A worker finds the CUDA devices for the processes of its runs in this variable; it sees only one of them itself.
RANK_DEVICES = "LORA_BENCH_RANK_DEVICES"

# Without any of these files no driver of a CUDA device is there: NVIDIA's, that of its boards, Windows' for Linux, and AMD's.
DEVICE_FILES = Path("/dev")
DRIVERS = ("nvidia*", "nvhost*", "nvgpu*", "dxg", "kfd")


def describe_environment(device_type: str) -> Environment:
    """Describe this machine and its packages; *device_type* trains, "cuda" or "cpu"."""
    device, count = _device(device_type)
    return Environment(
        device=device,
        device_count=count,
        cpu=_cpu(),
        cores=usable_cores(),
        memory_bytes=psutil.virtual_memory().total,
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        packages={
            "lora_bench": __version__,
            **{name: _version(name) for name in PACKAGES},
            **{name: found for name in OPTIONAL if (found := _version(name)) != NOT_INSTALLED},
        },
        driver=driver_version() if device_type == "cuda" else None,
    )


def driver_version(file: Path = Path("/proc/driver/nvidia/version")) -> str | None:
    """Return NVIDIA's driver by a *file* with "NVRM version: NVIDIA UNIX x86_64 Kernel Module 550.54.15 …", or None."""
    try:
        first = file.read_text(encoding="utf-8").partition("\n")[0]
    except OSError:
        return None
    found = re.search(r"(?<![\w.])\d{3,}\.\d+(?:\.\d+)?(?![\w.])", first)
    return found[0] if found else None


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True)
class CudaDevice:
    """A CUDA device, by torch's account.

    *visible* is its entry in `CUDA_VISIBLE_DEVICES`, and *uuid* is without the prefix that NVIDIA's tools write before it.
    """

    visible: str
    name: str
    memory_bytes: int
    uuid: str


def cuda_devices() -> list[str]:
    """Return the usable CUDA devices, as `CUDA_VISIBLE_DEVICES` names them; empty if there is none."""
    return [device.visible for device in described_devices()]


def described_devices() -> tuple[CudaDevice, ...]:
    """Return the CUDA devices that torch can use in processes started from here. Raise LoraBenchError if torch fails."""
    return _asked(os.environ.get("CUDA_VISIBLE_DEVICES"))


@functools.cache
def _asked(visible: str | None) -> tuple[CudaDevice, ...]:
    """Ask torch for its devices in another process, once for each value of `CUDA_VISIBLE_DEVICES`."""
    # A second look at a finished suite need not wait for torch's import where no driver is.
    if visible == "" or (sys.platform == "linux" and not any(any(DEVICE_FILES.glob(one)) for one in DRIVERS)):
        return ()
    asked = subprocess.run(
        our_command("lora_bench.records.environment"),
        capture_output=True, text=True, encoding="utf-8", errors="replace", stdin=subprocess.DEVNULL,
    )  # fmt: skip
    if asked.returncode:
        said = (asked.stderr.strip().splitlines() or [f"exit code {asked.returncode}"])[-1]
        raise LoraBenchError(
            f"torch fails when it looks for CUDA devices: {said}; set CUDA_VISIBLE_DEVICES to nothing to use the CPU"
        )
    found = json.loads(asked.stdout.splitlines()[-1])
    # CUDA reads the entries in order, up to the first that names no device.
    entries = [entry.strip() for entry in visible.split(",")] if visible is not None else map(str, itertools.count())
    return tuple(CudaDevice(visible=entry, **facts) for entry, facts in zip(entries, found, strict=False))


def card_memory() -> int | None:
    """Return the bytes of the smallest of these devices, or None without one."""
    return min((device.memory_bytes for device in described_devices()), default=None)


def too_few_devices(processes: int, devices: Sequence[str]) -> str | None:
    """Return why these CUDA devices are too few for a run over several processes, or None. On the CPU they always suffice."""
    if not devices or len(devices) >= processes:
        return None
    there = f"there are {len(devices)}" if len(devices) > 1 else "there is 1"
    return f"a run over {processes} processes needs as many CUDA devices, and {there}"


def _device(device_type: str) -> tuple[str, int]:
    if device_type != "cuda":
        return "cpu", 0
    import torch

    return torch.cuda.get_device_name(), torch.cuda.device_count()


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return NOT_INSTALLED


def main() -> None:
    """Print the facts of each CUDA device that torch can use as JSON, in torch's order: see `described_devices`."""
    import torch

    # In a process of its own: one that has started CUDA can fork no other process that uses it.
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    found = [torch.cuda.get_device_properties(index) for index in range(count)]
    print(json.dumps([{"name": one.name, "memory_bytes": one.total_memory, "uuid": str(one.uuid)} for one in found]))


if __name__ == "__main__":
    main()
