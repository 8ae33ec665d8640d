"""Which executor does the runs of a suite: this process, workers on this machine, or actors of a Ray cluster."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_bench.execute.executors.base import Event, Lost
from lora_bench.records.environment import RANK_DEVICES, cuda_devices
from lora_bench.records.record import Record
from lora_bench.records.run_lock import Elsewhere
from lora_bench.training.job import Job

Execute = Callable[
    [Sequence[Sequence[Job]], Callable[[Event], None]], Generator[Record | Elsewhere | Lost[Job], None, None]
]


@dataclass(frozen=True)
class Chosen:
    """What does runs.

    Args:
        workers: How many units of work at once; 0 for this process.
        execute: Does units, and gives what becomes of each job.
        stop: Asks for a stop, by the name of a signal.
        on_gpu: Whether runs have a GPU.
    """

    workers: int
    execute: Execute
    stop: Callable[[str], None]
    on_gpu: bool


def choose(workers: int, *, patience: Callable[[Job], float | None], log: Path, processes: int = 1) -> Chosen:
    """The executor that was asked for.

    Args:
        workers: Runs at once, at most; 0 does them in this process.
        patience: For how many seconds a job may give no sign of life before its worker is ended; None for ever.
        log: File that takes what workers print.
        processes: Of a run, at most: on CUDA each has a device of its own.
    """
    if in_this_process(workers):
        from lora_bench.execute.executors.inline import execute_inline
        from lora_bench.training.callbacks import request_stop

        request_stop(None)
        return Chosen(workers, execute_inline, request_stop, bool(cuda_devices()))
    from lora_bench.execute.executors.local import LocalWorkers

    pool: LocalWorkers[Job, Record | Elsewhere] = LocalWorkers(
        workers, log, _environments(workers, processes), patience=patience
    )
    return Chosen(workers, pool, pool.stop, bool(cuda_devices()))


def on_cluster(
    ray: Any,
    workers: int | None,
    *,
    threads: int,
    memory_bytes: int,
    patience: Callable[[Job], float | None],
    log: Path,
) -> Chosen:
    """Actors of the Ray cluster to which Ray is connected; see `RayWorkers`."""
    from lora_bench.execute.executors.ray import RayWorkers

    pool = RayWorkers(ray, workers, threads=threads, memory_bytes=memory_bytes, log=log, patience=patience)
    return Chosen(pool.workers, pool, pool.stop, pool.on_gpu)


def connected_to(address: str | None) -> AbstractContextManager[Any]:
    """Ray, connected to the cluster at an address; None where there is no address."""
    if address is None:
        return nullcontext()
    from lora_bench.execute.executors.ray_connection import connected

    return connected(address)


def in_this_process(workers: int | None) -> bool:
    """Whether runs are done in this process; elsewhere than on Windows they can be forked."""
    return workers == 0 or sys.platform == "win32"


def _environments(workers: int, processes: int) -> list[dict[str, str]]:
    """The environment of each worker: on CUDA each sees one device, in turn, and knows those of its runs' ranks."""
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
