"""The rank server: a process with its imports done, from which the worker ranks of one run after another are forked.

    python -m lora_bench.execute.executors.rank_server DESCRIPTOR [spawns | rank]

It receives a job with its devices, and during the run the names of signals: stop signals, and SIGUSR1, at which each worker
rank writes its stack. It sends the steps, None for a heartbeat, and at last a record, or a sentence on how a worker rank ended.
A run leaves no process: its worker ranks are killed when it has its record, when one of them ends, and when the process that
sent the job has ended. As in the fork server, worker ranks do their own imports where an import starts CUDA.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from typing import Any, NoReturn

from lora_bench.execute.executors.fork_server import SPAWNS, end_after, import_everything
from lora_bench.execute.executors.processes import cause, end_with_parent, forks_can_use_cuda, memory_kills
from lora_bench.records.outcomes import DISK_FULL
from lora_bench.records.record import Record
from lora_bench.training.distributed.ranks import WorkerRank
from lora_bench.training.job import Job
from lora_bench.util.child_process import our_command

# Worker ranks wait for each other as long as the first evaluates. The progress of a run is watched from outside.
PATIENCE = timedelta(days=30)

# The death of one makes the others fail, and their errors may arrive before its end does.
SETTLE_SECONDS = 0.5

STOPS = (signal.SIGINT, signal.SIGTERM)

# Last message of a worker rank.
_DONE = "done"

# Argument of a worker rank that the server spawned, which then sends it its work.
_RANK = "rank"
# Stacks go into one file: each worker rank has its part of this time, so that they do not mix. Less than STACK_SECONDS of
# the workers, after which the run is stopped.
_STACKS_SECONDS = 0.6


@dataclass
class _Child:
    """The process of a worker rank, and its messages; *name* is for readers."""

    name: str
    pid: int
    link: Connection[Any, Any]
    done: bool = False
    alive: bool = True

    def ended(self, kills: int | None) -> str:
        """Return how it ended, for readers; it must have ended."""
        self.alive = False
        _, status = os.waitpid(self.pid, 0)
        short = kills is not None and memory_kills() != kills
        return cause(os.waitstatus_to_exitcode(status), out_of_memory=short, who=self.name)

    def kill(self) -> None:
        """Kill it, unless it has ended."""
        self.link.close()
        if self.alive:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)


def serve(connection: Connection[Any, Any], *, spawns: bool = False) -> None:
    """Do runs until the connection closes. The starter blocks SIGINT and SIGTERM; with *spawns* ranks do their imports."""
    end_with_parent()
    # Ignored until worker ranks can write their stacks, because the signal would kill the process.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    if not spawns:
        _import()
        if not forks_can_use_cuda():
            print("an import starts CUDA, so each worker rank does its own imports", file=sys.stderr, flush=True)
            _become(connection, SPAWNS)
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            asked = connection.recv()
            if isinstance(asked, str):
                continue  # a stop for a run that had already finished
            job, devices = asked
            connection.send(None)  # the imports are done, and the watch begins
            with tempfile.TemporaryDirectory(prefix="lora_bench-") as folder:
                _run(job, devices, Path(folder) / "ranks", connection, spawns)


def _import() -> None:
    import_everything()
    import evaluate  # noqa: F401  # brings scipy, and every rank scores something


def _become(connection: Connection[Any, Any], argument: str) -> NoReturn:
    """Begin this module anew in this process, with a connection and a second argument."""
    os.set_inheritable(connection.fileno(), True)
    name = "lora_bench.execute.executors.rank_server"
    os.execv(sys.executable, our_command(name, str(connection.fileno()), argument))


def _run(job: Job, devices: list[str], meeting: Path, connection: Connection[Any, Any], spawns: bool) -> None:
    kills = memory_kills()
    children: list[_Child] = []
    try:
        for number in range(job.spec.training.processes):
            children.append(_fork(job, number, devices, meeting, connection, children, spawns))
        while True:
            listened = [child for child in children if child.alive]
            for ready in wait([connection, *(child.link for child in listened)]):
                if ready is connection:
                    number = signal.Signals[connection.recv()]
                    # Every worker rank writes its stack; a stop goes only to the first, and the others follow.
                    for child in children if number == signal.SIGUSR1 else children[:1]:
                        if child.alive:
                            os.kill(child.pid, number)
                        if number == signal.SIGUSR1:
                            time.sleep(_STACKS_SECONDS / len(children))
                    continue
                (child,) = [child for child in listened if child.link is ready]
                word = _heard(child, kills)
                if word == _DONE:
                    child.done = True
                    continue
                if isinstance(word, Record) and word.status == "failed":
                    word = _death(children, kills) or word
                connection.send(word)
                if isinstance(word, Record | str):
                    return
    finally:
        for child in children:
            child.kill()


def _heard(child: _Child, kills: int | None) -> Any:
    """Return a message of a worker rank, or a sentence on how it ended."""
    try:
        return child.link.recv()
    except (EOFError, OSError):  # it ended, maybe in the middle of a message
        return child.ended(kills)


def _death(children: list[_Child], kills: int | None) -> str | None:
    """Return how one of the worker ranks died, if one did: then the failures of others are a consequence."""
    for child in children:
        while child.alive and not child.done and child.link.poll(SETTLE_SECONDS):
            word = _heard(child, kills)
            if not child.alive:
                return str(word)
    return None


def _fork(
    job: Job,
    number: int,
    devices: list[str],
    meeting: Path,
    connection: Connection[Any, Any],
    before: list[_Child],
    spawns: bool,
) -> _Child:
    server = os.getpid()
    ours, theirs = Pipe(duplex=spawns)
    pid = os.fork()
    if pid:
        theirs.close()
        if spawns:
            ours.send((job, number, devices, meeting))
        return _Child(f"rank {number} of {job.spec.training.processes}", pid, ours)

    def be_rank() -> None:
        end_with_parent()
        if os.getppid() != server:
            os._exit(1)
        for inherited in (connection, ours, *(child.link for child in before)):
            inherited.close()
        if spawns:
            _become(theirs, _RANK)
        _be_rank(job, number, devices, meeting, theirs)

    # The worker rank. It must never return into the server's loop.
    end_after(be_rank)


def _be_rank(job: Job, number: int, devices: list[str], meeting: Path, link: Connection[Any, Any]) -> None:
    """Do the part of a worker rank in a run, send the result, and wait to be ended."""
    import torch

    from lora_bench.training.attempt import Facts, ended
    from lora_bench.training.callbacks import stop_on_signals
    from lora_bench.training.run import as_rank
    from lora_bench.util.heartbeat import at_intervals, heard

    recipe = job.spec.training
    rank = WorkerRank(number, recipe.processes, recipe.parallelism == "fsdp")
    if rank.first:
        stop_on_signals()
    else:
        for stop in STOPS:
            signal.signal(stop, signal.SIG_IGN)  # the other worker ranks follow the first
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
    faulthandler.register(signal.SIGUSR1, file=2, all_threads=True)
    os.environ |= {
        "RANK": str(number), "LOCAL_RANK": str(number),
        "WORLD_SIZE": str(rank.processes), "LOCAL_WORLD_SIZE": str(rank.processes),
        # Otherwise accelerate takes all cores.
        "OMP_NUM_THREADS": str(recipe.threads),
    }  # fmt: skip
    if devices:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(devices)
    elif sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # a machine's own name may not resolve
    facts = Facts()
    try:
        with heard(at_intervals(lambda: link.send(None))) if rank.first else contextlib.nullcontext():
            if devices:
                torch.cuda.set_device(number)
            # They meet at a file, because a port may already be in use.
            torch.distributed.init_process_group(
                "nccl" if devices else "gloo",
                init_method=meeting.absolute().as_uri(),
                rank=number,
                world_size=rank.processes,
                timeout=PATIENCE,
            )
            word = as_rank(job, rank, facts, lambda *step: link.send(step)) or _DONE
    except Exception as error:
        word = _said_of(ended(job, facts, error), rank)
    link.send(word)
    while True:
        signal.pause()


def _said_of(record: Record, rank: WorkerRank) -> Record | str:
    """Return a worker rank's message on an unfinished attempt; stops and other ends of all are sent by the first one."""
    if rank.first:
        return record
    if record.status not in ("failed", "out_of_memory"):
        return _DONE
    reason = record.reason if record.reason == DISK_FULL else f"rank {rank.number} of {rank.processes}: {record.reason}"
    return record.model_copy(update={"reason": reason})


def main(descriptor: str, what: str | None = None) -> None:
    """Be the server, or a worker rank that it spawned."""
    connection: Connection[Any, Any] = Connection(int(descriptor))
    if what != _RANK:
        serve(connection, spawns=what == SPAWNS)
        return

    def be_rank() -> None:
        _import()
        job, number, devices, meeting = connection.recv()
        _be_rank(job, number, devices, meeting, connection)

    end_after(be_rank)


if __name__ == "__main__":
    main(*sys.argv[1:])
