"""Runs on a Ray cluster: long-lived actors on as many GPUs and hosts as it has, each at one unit of work after another.

The runs folder is on a file system that all nodes see, and it decides: an actor claims a run as any other process does, and
what is published there is done, whoever did it. A node that is lost costs what its actors were at, back to their last
checkpoints; others go on from these. Nothing of a run goes through Ray but its spec and, on the way back, its progress and
its record.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

from lora_bench.claims import Elsewhere
from lora_bench.errors import LoraBenchError
from lora_bench.executors.base import Event, Lost
from lora_bench.job import Job
from lora_bench.record import Record

Said = Event | Record | Elsewhere

# A unit whose node or actor is lost so often is what loses them.
MOST_LOSSES = 3
LOOK_SECONDS = 0.5


class Worker:
    """What runs in an actor: one thread is at the work, and others answer for it."""

    def __init__(self) -> None:
        self._said: list[Said] = []

    def work(self, unit: Sequence[Job]) -> None:
        """Do the runs of a unit."""
        from lora_bench.executors.inline import execute_inline

        for end in execute_inline([unit], self._said.append):
            if not isinstance(end, Lost):
                self._said.append(end)

    def said(self) -> list[Said]:
        """What there is to tell since the last time."""
        said, self._said[:] = list(self._said), []
        return said

    def stop(self, name: str) -> None:
        """Ask the run that it is at to leave a checkpoint and end."""
        from lora_bench.loop import request_stop

        request_stop(name)


@dataclass
class _Actor:
    """An actor, and what it is at."""

    handle: Any
    unit: list[Job] = field(default_factory=list)
    done: Any = None


class RayWorkers:
    """An executor: actors of a Ray cluster.

    Args:
        address: Of the cluster; "local" begins one on this machine that ends with the work.
        workers: How many actors; None for as many as the cluster has devices for, or cores where it has no GPU.
        threads: CPU threads of each.

    Raises:
        LoraBenchError: If Ray is not installed, or no cluster answers there.
    """

    def __init__(self, address: str, workers: int | None = None, *, threads: int = 1) -> None:
        try:
            import ray
        except ImportError:
            raise LoraBenchError('--ray needs Ray: pip install "lora_bench[ray]"') from None
        self._ray = ray
        self._own = not ray.is_initialized()
        if self._own:
            own = {"include_dashboard": False} if address == "local" else {"address": address}
            try:
                ray.init(log_to_driver=False, **own)
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise LoraBenchError(f"no Ray cluster answers at {address!r}: {error}") from None
        resources: dict[str, float] = ray.cluster_resources()
        gpus = int(resources.get("GPU", 0))
        self._gpus = 1 if gpus else 0
        self._cpus = threads
        most = gpus or max(1, int(resources.get("CPU", 1)) // threads)
        self.workers = most if workers is None else min(workers, most)
        self._actors: list[_Actor] = []
        self._stopping: str | None = None

    def stop(self, name: str) -> None:
        """Ask every actor to leave a checkpoint and end."""
        self._stopping = name
        for actor in self._actors:
            actor.handle.stop.remote(name)

    def close(self) -> None:
        """Let go of the cluster."""
        if self._own:
            self._ray.shutdown()

    def __call__(
        self, units: Sequence[Sequence[Job]], tell: Callable[[Event], None]
    ) -> Generator[Record | Elsewhere | Lost[Job], None, None]:
        """Yield the record of each job as it is done."""
        waiting = [list(unit) for unit in units]
        losses: dict[str, int] = {}
        self._actors = [self._begun() for _ in range(min(self.workers, len(waiting)))]
        try:
            while waiting or any(actor.unit for actor in self._actors):
                for actor in self._actors:
                    if not actor.unit and waiting and self._stopping is None:
                        actor.unit = waiting.pop(0)
                        actor.done = actor.handle.work.remote(list(actor.unit))
                busy = [actor for actor in self._actors if actor.unit]
                if not busy:
                    return
                self._ray.wait([actor.done for actor in busy], timeout=LOOK_SECONDS)
                for actor in busy:
                    reason = yield from self._heard(actor, tell)
                    if reason is None:
                        continue
                    left, actor.unit = actor.unit, []
                    actor.handle = self._begun().handle
                    for job in left:
                        losses[job.run_id] = losses.get(job.run_id, 0) + 1
                        if losses[job.run_id] >= MOST_LOSSES:
                            yield Lost(job, f"its Ray actor was lost {MOST_LOSSES} times: {reason}")
                        else:
                            # Which run of a pack it was is not known, so each is done by itself.
                            waiting.insert(0, [job])
        finally:
            for actor in self._actors:
                self._ray.kill(actor.handle)

    def _begun(self) -> _Actor:
        options: dict[str, Any] = {"num_cpus": self._cpus, "num_gpus": self._gpus, "max_concurrency": 4}
        return _Actor(self._ray.remote(Worker).options(**options).remote())

    def _heard(
        self, actor: _Actor, tell: Callable[[Event], None]
    ) -> Generator[Record | Elsewhere | Lost[Job], None, str | None]:
        """Pass on what an actor says; why it is lost, or None."""
        ended = bool(self._ray.wait([actor.done], timeout=0)[0])
        try:
            said = self._ray.get(actor.handle.said.remote())
            if ended:
                self._ray.get(actor.done)
        except self._ray.exceptions.RayError as error:
            # What it published before its end is done.
            for job in list(actor.unit):
                record = job.folder.record()
                if record is not None:
                    actor.unit.remove(job)
                    yield record
            return next(iter(str(error).strip().splitlines()), type(error).__name__)
        for one in said:
            if isinstance(one, Event):
                tell(one)
            else:
                actor.unit = [job for job in actor.unit if job.run_id != one.run_id]
                yield one
        if ended and actor.unit:
            # A stop came before these were begun.
            actor.unit = []
        return None
