"""A harness without training: real claims, real store and real sharing, for tests that kill many of them.

    python harness.py RUNS LOG NUMBER SEED [QUIRK ...]

does the runs 0 … NUMBER-1 in an order drawn from SEED, each some milliseconds long. Before a run it writes a line to LOG,
and when the run's record is acknowledged another. Quirks: `stranger` gives it a boot of its own, so that others can judge it
by its heartbeat alone; `lockless` takes the file system's locks away; `hold` has it stay at the first run for ever.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import random
import sys
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path

from lora_bench.execute.executors.executor import Lost
from lora_bench.execute.scheduler import Scheduler
from lora_bench.records import run_lock as claims
from lora_bench.records.record import Record
from lora_bench.records.run_lock import Elsewhere
from lora_bench.records.store import RunFolder
from lora_bench.training.job import Event
from tests.sample_records import record as made

BEAT_SECONDS = 0.05


@dataclasses.dataclass(frozen=True)
class ToyJob:
    """A job without a spec: its record is made of its number."""

    folder: RunFolder
    record: Record
    alone_because: None = None

    @property
    def run_id(self) -> str:
        return self.record.run_id

    @property
    def steps(self) -> int | None:
        return None


Result = Record | Elsewhere | Lost[ToyJob]


class ToyExecutor:
    """An executor that does jobs by a function, and keeps the records it is shown.

    Args:
        do: Does jobs.
        say: Told what is waited for.
    """

    workers = 1
    on_gpu = False

    def __init__(
        self,
        do: Callable[[Sequence[ToyJob]], Generator[Result, None, None]],
        say: Callable[[str], None] = print,
    ) -> None:
        self.do = do
        self.say = say
        self.found: list[Record] = []
        self.jobs: list[ToyJob] = []

    def submit(self, units: Sequence[Sequence[ToyJob]]) -> None:
        self.jobs = [job for unit in units for job in unit]

    def results(self, tell: Callable[[Event], None]) -> Generator[Result, None, None]:
        yield from self.do(self.jobs)

    def stop(self, name: str) -> None:
        raise AssertionError(f"nothing asks for a stop, and {name} came")

    def event(self, event: Event) -> None:
        return

    def finished(self, record: Record) -> None:
        self.found.append(record)


def schedule(
    todo: Sequence[ToyJob],
    executor: ToyExecutor,
    publish_lost: Callable[[Lost[ToyJob]], Record],
) -> list[Record]:
    """Do jobs beside other processes; what becomes of each."""
    scheduler = Scheduler(
        todo, executor, executor, units=lambda jobs: [[job] for job in jobs], publish_lost=publish_lost
    )
    assert scheduler.run() is None
    return executor.found


def jobs(runs: Path, number: int) -> list[ToyJob]:
    """The jobs of a suite of *number* runs."""
    records = [made(seed=seed) for seed in range(number)]
    return [ToyJob(RunFolder(runs / record.run_id), record) for record in records]


def no_locks(*_: object) -> None:
    """Answer as a file system without locks does."""
    raise OSError(errno.ENOLCK, "no locks available")


def apply(quirks: Sequence[str]) -> None:
    """Make this process one that a machine of its own, or a file system without locks, would have."""
    claims.HEARTBEAT_SECONDS = BEAT_SECONDS
    if "stranger" in quirks:
        real, boot = claims.this_process(), f"boot of process {os.getpid()}"
        claims.this_process = lambda: dataclasses.replace(real, boot_id=boot)
        claims.is_alive = lambda owner: None
        claims.is_local = lambda folder: False
    if "lockless" in quirks:
        import fcntl

        fcntl.flock = no_locks


def note(log: Path, line: str) -> None:
    """Append a line, whole whatever others append."""
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(descriptor, f"{line}\n".encode())
    os.close(descriptor)


def main(runs: Path, log: Path, number: int, seed: int, quirks: Sequence[str]) -> None:
    draw = random.Random(seed)
    apply(quirks)
    todo = jobs(runs, number)
    draw.shuffle(todo)

    def execute(some: Sequence[ToyJob]) -> Generator[Record | Elsewhere | Lost[ToyJob], None, None]:
        for job in some:
            claim = job.folder.try_lock()
            if claim is None:
                yield Elsewhere(job.run_id)
                continue
            with claim:
                record = job.folder.record()
                if record is None:
                    note(log, f"begin {job.run_id} {os.getpid()}")
                    time.sleep(3600 if "hold" in quirks else draw.random() * 0.02)
                    record = job.folder.publish(job.record.model_copy(update={"warnings": (f"by {os.getpid()}",)}))
                    note(log, f"done {job.run_id} {os.getpid()}")
            yield record

    found = schedule(todo, ToyExecutor(execute, lambda message: note(log, message)), lambda lost: lost.job.record)
    assert sorted(record.run_id for record in found) == sorted(job.run_id for job in todo)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5:])
