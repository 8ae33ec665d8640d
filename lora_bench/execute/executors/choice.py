"""Choose the executor of a suite: this process, workers on this machine, or actors of a Ray cluster."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from lora_bench.execute.executors.executor import Executor
from lora_bench.records.environment import RANK_DEVICES, cuda_devices
from lora_bench.records.record import Record
from lora_bench.records.run_lock import Elsewhere
from lora_bench.training.job import Job

SuiteExecutor = Executor[Job, Record | Elsewhere]


def choose(workers: int, *, patience: Callable[[Job], float | None], log: Path, processes: int = 1) -> SuiteExecutor:
    """Return the executor of at most *workers* runs at once; 0 does them in this process.

    A worker is ended when its job is silent for longer than the seconds of *patience*; None for no limit. Workers write to
    *log*. On CUDA each of at most *processes* processes of a run has its own device.
    """
    if in_this_process(workers):
        from lora_bench.execute.executors.inline import ThisProcess

        return ThisProcess()
    from lora_bench.execute.executors.local import LocalWorkers

    return LocalWorkers(workers, log, _environments(workers, processes), patience=patience)


def in_this_process(workers: int | None) -> bool:
    """Return True if runs are done in this process, because Windows cannot fork or the user asked for it."""
    return workers == 0 or sys.platform == "win32"


def _environments(workers: int, processes: int) -> list[dict[str, str]]:
    """Return the environment of each worker: on CUDA each sees one device, in turn, and knows those of its worker ranks."""
    devices = cuda_devices()
    if not devices:
        return [{} for _ in range(workers)]
    if processes == 1:
        return [{"CUDA_VISIBLE_DEVICES": devices[index % len(devices)]} for index in range(workers)]
    groups = [devices[at : at + processes] for at in range(0, len(devices) - processes + 1, processes)] or [devices]
    return [
        {"CUDA_VISIBLE_DEVICES": group[0], RANK_DEVICES: ",".join(group)}
        for group in (groups[index % len(groups)] for index in range(workers))
    ]
