"""A worker rank: it receives its part of a run, takes it, and sends the result.

    python -m lora_bench.training.distributed.be_rank DESCRIPTOR

It sends None when its imports are done and for a heartbeat, the steps, and at last a record. Only the first worker rank sends
steps; the others send a record only if they failed.
"""

import contextlib
import faulthandler
import signal
import sys
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from lora_bench.records.outcomes import DISK_FULL
from lora_bench.records.record import Record
from lora_bench.training.attempt import Facts, ended
from lora_bench.training.callbacks import stop_on_signals
from lora_bench.training.distributed.launch import BLOCKED, DONE, STOPS
from lora_bench.training.distributed.ranks import WorkerRank
from lora_bench.training.job import Job
from lora_bench.training.run import as_rank
from lora_bench.util.heartbeat import at_intervals, heard
from lora_bench.util.processes import end_with_parent

# Worker ranks wait for each other as long as the first evaluates. The progress of a run is watched from outside.
PATIENCE = timedelta(days=30)


def be_rank(link: "Connection[Any, Any]") -> None:
    """Do the part of a worker rank in a run, send the result, and wait to be ended."""
    end_with_parent()
    faulthandler.register(signal.SIGUSR1, file=2, all_threads=True)
    job, number, devices, meeting = link.recv()
    link.send(None)
    recipe = job.spec.training
    rank = WorkerRank(number, recipe.processes, recipe.parallelism == "fsdp")
    if rank.first:
        stop_on_signals()
    else:
        for stop in STOPS:
            signal.signal(stop, signal.SIG_IGN)  # the other worker ranks follow the first
    signal.pthread_sigmask(signal.SIG_UNBLOCK, BLOCKED)
    facts = Facts()
    try:
        with heard(at_intervals(lambda: link.send(None))) if rank.first else contextlib.nullcontext():
            word = _result(job, rank, devices, meeting, facts, link)
    except Exception as error:
        word = _said_of(ended(job, facts, error), rank)
    link.send(word)
    while True:
        signal.pause()


def _result(
    job: Job, rank: WorkerRank, devices: list[str], meeting: Path, facts: Facts, link: "Connection[Any, Any]"
) -> Record | str:
    if devices:
        torch.cuda.set_device(rank.number)
    # They meet at a file, because a port may already be in use.
    torch.distributed.init_process_group(
        "nccl" if devices else "gloo",
        init_method=meeting.absolute().as_uri(),
        rank=rank.number,
        world_size=rank.processes,
        timeout=PATIENCE,
    )
    return as_rank(job, rank, facts, lambda *step: link.send(step)) or DONE


def _said_of(record: Record, rank: WorkerRank) -> Record | str:
    """Return a worker rank's message on an unfinished attempt; stops and other ends of all are sent by the first one."""
    if rank.first:
        return record
    if record.status not in ("failed", "out_of_memory"):
        return DONE
    reason = record.reason if record.reason == DISK_FULL else f"rank {rank.number} of {rank.processes}: {record.reason}"
    return record.model_copy(update={"reason": reason})


if __name__ == "__main__":
    be_rank(Connection(int(sys.argv[1])))
