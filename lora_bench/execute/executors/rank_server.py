"""The process that ranks are forked from: it has the imports done, and does one run after another.

    python -m lora_bench.execute.executors.rank_server DESCRIPTOR

Over the connection comes a job with its devices, and while its ranks are at it the names of signals: those that ask for a stop,
and SIGUSR1, upon which each writes where it stands. Back go the steps, None for a sign of life, and at last a record, or in a
sentence how a rank ended. A run leaves no process: its ranks are killed when it has its record, when one of them ends, and when
whoever gave the job is gone.
"""

from __future__ import annotations

import contextlib
import faulthandler
import math
import os
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from typing import Any

from lora_bench.execute.executors.fork_server import import_everything
from lora_bench.execute.executors.processes import cause, end_with_parent, memory_kills
from lora_bench.records.outcomes import DISK_FULL
from lora_bench.records.record import Record
from lora_bench.training.distributed.ranks import WorkerRank
from lora_bench.training.job import Job
from lora_bench.util.redaction import without_secrets

# Ranks wait for each other for as long as the first evaluates. Whether a run gets on is watched from outside.
PATIENCE = timedelta(days=30)

# One that dies is noticed by the others, whose errors may be heard before its end is.
SETTLE_SECONDS = 0.5

STOPS = (signal.SIGINT, signal.SIGTERM)

# What a rank says when it has nothing left to do.
_DONE = "done"


@dataclass
class _Child:
    """A rank's process, and what is heard of it; *name* as readers count them."""

    name: str
    pid: int
    link: Connection[Any, Any]
    done: bool = False
    alive: bool = True

    def ended(self, kills: int | None) -> str:
        """How it ended, for a reader; it has."""
        self.alive = False
        _, status = os.waitpid(self.pid, 0)
        short = kills is not None and memory_kills() != kills
        return cause(os.waitstatus_to_exitcode(status), out_of_memory=short, who=self.name)

    def kill(self) -> None:
        """End it, if it has not."""
        self.link.close()
        if self.alive:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)


def serve(connection: Connection[Any, Any]) -> None:
    """Do the runs that are asked for until nobody asks any more. SIGINT and SIGTERM are blocked by whoever starts this."""
    end_with_parent()
    # Until a rank can write where it stands, it is not to die of being asked.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    import_everything()
    import evaluate  # noqa: F401  # brings scipy, and every rank scores something

    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            asked = connection.recv()
            if isinstance(asked, str):
                continue  # a stop, of a run that was done before it came
            job, devices = asked
            connection.send(None)  # its imports are done, and from here on it is watched
            with tempfile.TemporaryDirectory(prefix="lora_bench-") as folder:
                _run(job, devices, Path(folder) / "ranks", connection)


def _run(job: Job, devices: list[str], meeting: Path, connection: Connection[Any, Any]) -> None:
    """Have a run done, and say what became of it."""
    kills = memory_kills()
    children: list[_Child] = []
    try:
        for number in range(job.spec.training.processes):
            children.append(_fork(job, number, devices, meeting, connection, children))
        while True:
            listened = [child for child in children if child.alive]
            for ready in wait([connection, *(child.link for child in listened)]):
                if ready is connection:
                    number = signal.Signals[connection.recv()]
                    # Where it stands is every rank's to say; the others stop when the first does.
                    for child in children if number == signal.SIGUSR1 else children[:1]:
                        if child.alive:
                            os.kill(child.pid, number)
                    continue
                (child,) = [child for child in listened if child.link is ready]
                said = _heard(child, kills)
                if said == _DONE:
                    child.done = True
                    continue
                if isinstance(said, Record) and said.status == "failed":
                    said = _death(children, kills) or said
                connection.send(said)
                if isinstance(said, Record | str):
                    return
    finally:
        for child in children:
            child.kill()


def _heard(child: _Child, kills: int | None) -> Any:
    """What a rank says, or in a sentence how it ended."""
    try:
        return child.link.recv()
    except (EOFError, OSError):  # it ended, maybe in the middle of a word
        return child.ended(kills)


def _death(children: list[_Child], kills: int | None) -> str | None:
    """How one of the ranks died, if one did: then another's failure is that it lost this one."""
    for child in children:
        while child.alive and not child.done and child.link.poll(SETTLE_SECONDS):
            said = _heard(child, kills)
            if not child.alive:
                return str(said)
    return None


def _fork(
    job: Job,
    number: int,
    devices: list[str],
    meeting: Path,
    connection: Connection[Any, Any],
    before: list[_Child],
) -> _Child:
    server = os.getpid()
    ours, theirs = Pipe(duplex=False)
    pid = os.fork()
    if pid:
        theirs.close()
        return _Child(f"rank {number} of {job.spec.training.processes}", pid, ours)
    # The rank. Nothing may return from here into the server's loop.
    try:
        end_with_parent()
        if os.getppid() != server:
            os._exit(1)
        for inherited in (connection, ours, *(child.link for child in before)):
            inherited.close()
        _be_rank(job, number, devices, meeting, theirs)
    except BaseException:
        import traceback

        print(without_secrets(traceback.format_exc()), end="", file=sys.stderr)
    finally:
        sys.stderr.flush()
        os._exit(1)


def _be_rank(job: Job, number: int, devices: list[str], meeting: Path, link: Connection[Any, Any]) -> None:
    """Do a rank's part of a run, say what came of it, and wait to be ended."""
    import torch

    from lora_bench.training.attempt import Facts, ended
    from lora_bench.training.callbacks import stop_on_signals
    from lora_bench.training.run import as_rank
    from lora_bench.util.heartbeat import heard

    recipe = job.spec.training
    rank = WorkerRank(number, recipe.processes, recipe.parallelism == "fsdp")
    if rank.first:
        stop_on_signals()
    else:
        for one in STOPS:
            signal.signal(one, signal.SIG_IGN)  # they do what the first says
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
    faulthandler.register(signal.SIGUSR1, file=2, all_threads=True)
    os.environ |= {
        "RANK": str(number), "LOCAL_RANK": str(number),
        "WORLD_SIZE": str(rank.processes), "LOCAL_WORLD_SIZE": str(rank.processes),
        # Else accelerate takes all cores.
        "OMP_NUM_THREADS": str(recipe.threads),
    }  # fmt: skip
    if devices:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(devices)
    elif sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # a machine's own name may lead nowhere
    last = -math.inf

    def alive() -> None:
        nonlocal last
        if rank.first and time.monotonic() - last >= 1.0:
            last = time.monotonic()
            link.send(None)

    facts = Facts()
    try:
        with heard(alive):
            if devices:
                torch.cuda.set_device(number)
            # They meet at a file: no port of the machine can be taken already.
            torch.distributed.init_process_group(
                "nccl" if devices else "gloo",
                init_method=meeting.absolute().as_uri(),
                rank=number,
                world_size=rank.processes,
                timeout=PATIENCE,
            )
            said = as_rank(job, rank, facts, lambda *step: link.send(step)) or _DONE
    except Exception as error:
        said = _said_of(ended(job, facts, error), rank)
    link.send(said)
    while True:
        signal.pause()


def _said_of(record: Record, rank: WorkerRank) -> Record | str:
    """What a rank says of an attempt that ended; a stop, or what else ends it for all, the first rank tells of."""
    if rank.first:
        return record
    if record.status not in ("failed", "out_of_memory"):
        return _DONE
    reason = record.reason if record.reason == DISK_FULL else f"rank {rank.number} of {rank.processes}: {record.reason}"
    return record.model_copy(update={"reason": reason})


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))
