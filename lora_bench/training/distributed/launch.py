"""Do a run over several processes of this machine: start its worker ranks, and receive the result.

This process holds the run lock and publishes the record. The worker ranks take the steps, and the first of them scores. They
are killed when this process has the record, when one of them ends, and when this process ends.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from typing import Any

from lora_bench.errors import LoraBenchError
from lora_bench.records.environment import RANK_DEVICES, cuda_devices, too_few_devices
from lora_bench.records.outcomes import cause
from lora_bench.records.record import Record
from lora_bench.training.callbacks import stop_requested
from lora_bench.training.job import Job, Notify
from lora_bench.util.child_process import our_command
from lora_bench.util.heartbeat import beat
from lora_bench.util.processes import memory_kills

# Interval between checks for a stop.
LOOK_SECONDS = 0.2

# The death of one worker rank makes the others fail, and their errors may arrive before its end does.
SETTLE_SECONDS = 0.5

# Stacks go into one file: each worker rank has its part of this time, so that they do not mix. Less than STACK_SECONDS of
# the workers, after which the run is stopped.
STACKS_SECONDS = 0.6

if sys.platform != "win32":
    STOPS = (signal.SIGINT, signal.SIGTERM)
    # Signals that wait until a worker rank can answer them.
    BLOCKED = (*STOPS, signal.SIGUSR1)

# Last message of a worker rank that has no record to send.
DONE = "done"


class RankLost(LoraBenchError):
    """A worker rank ended before the run had a record."""


class _Rank:
    """The process of a worker rank, and its messages."""

    def __init__(self, job: Job, number: int, devices: list[str], meeting: Path) -> None:
        recipe = job.spec.training
        self.name = f"rank {number} of {recipe.processes}"
        self.done = False
        self.link: Connection[Any, Any]
        self.link, theirs = Pipe()
        environment = {
            **os.environ,
            "TOKENIZERS_PARALLELISM": "false", "PYTHONWARNINGS": "ignore",
            "RANK": str(number), "LOCAL_RANK": str(number),
            "WORLD_SIZE": str(recipe.processes), "LOCAL_WORLD_SIZE": str(recipe.processes),
            # Otherwise accelerate takes all cores.
            "OMP_NUM_THREADS": str(recipe.threads),
        }  # fmt: skip
        if devices:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(devices)
        elif sys.platform == "linux":
            environment.setdefault("GLOO_SOCKET_IFNAME", "lo")  # a machine's own name may not resolve
        before = signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)
        try:
            self.process = subprocess.Popen(
                our_command("lora_bench.training.distributed.be_rank", str(theirs.fileno())),
                stdin=subprocess.DEVNULL,
                # Output of libraries is no output of this program.
                stdout=2,
                pass_fds=[theirs.fileno()],
                env=environment,
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()
        with contextlib.suppress(OSError):  # it has ended, which its link tells
            self.link.send((job, number, devices, meeting))

    def heard(self, kills: int | None) -> Any:
        """Return its next message, or a sentence on how it ended; *kills* are the `memory_kills` before the run."""
        try:
            word = self.link.recv()
        except (EOFError, OSError):  # it ended, maybe in the middle of a message
            short = kills is not None and memory_kills() != kills
            word = cause(self.process.wait(), out_of_memory=short, who=self.name)
        self.done = word == DONE
        return word

    def kill(self) -> None:
        self.link.close()
        self.process.kill()
        self.process.wait()


_stacks_wanted = False


def ask_for_stacks() -> None:
    """Make every worker rank of the current run write its stack."""
    global _stacks_wanted
    _stacks_wanted = True


def over_ranks(job: Job, notify: Notify | None) -> Record:
    """Return the record of a run over its processes. Raise RankLost if one ended, LoraBenchError for too few devices."""
    global _stacks_wanted
    processes = job.spec.training.processes
    devices, kills = _devices(processes), memory_kills()
    _stacks_wanted = False
    ranks: list[_Rank] = []
    with tempfile.TemporaryDirectory(prefix="lora_bench-") as folder:
        try:
            for number in range(processes):
                ranks.append(_Rank(job, number, devices, Path(folder) / "ranks"))
            return _record(ranks, notify, kills)
        finally:
            for rank in ranks:
                rank.kill()


def _devices(processes: int) -> list[str]:
    """Return the CUDA devices of the worker ranks; empty if they train on the CPU."""
    if sys.platform == "win32":
        raise LoraBenchError(f"a run over {processes} processes needs signals, which this system lacks")
    given = os.environ.get(RANK_DEVICES)
    found = given.split(",") if given else cuda_devices()
    missing = too_few_devices(processes, found)
    if missing is not None:
        raise LoraBenchError(missing)
    return found[:processes]


def _record(ranks: Sequence[_Rank], notify: Notify | None, kills: int | None) -> Record:
    stopped = begun = False
    while True:
        stop = stop_requested()
        if stop is not None and not stopped:
            stopped = True
            ranks[0].process.send_signal(signal.Signals[stop])
        if _stacks_wanted:
            _write_stacks(ranks)
        if not begun:
            beat()  # the worker ranks are still importing
        ready = wait([rank.link for rank in ranks if not rank.done], LOOK_SECONDS)
        for rank in [rank for rank in ranks if rank.link in ready]:
            begun = True
            word = rank.heard(kills)
            if isinstance(word, Record):
                lost = _death(ranks, kills) if word.status == "failed" else None
                if lost is None:
                    return word
                raise RankLost(lost)
            if rank.done:
                continue
            if isinstance(word, str):
                raise RankLost(word)
            beat()
            if word is not None and notify is not None:
                notify(*word)


def _write_stacks(ranks: Sequence[_Rank]) -> None:
    global _stacks_wanted
    _stacks_wanted = False
    for rank in ranks:
        rank.process.send_signal(signal.SIGUSR1)
        time.sleep(STACKS_SECONDS / len(ranks))


def _death(ranks: Sequence[_Rank], kills: int | None) -> str | None:
    """Return how one of the worker ranks died, if one did: then the failures of others are a consequence."""
    for rank in ranks:
        while not rank.done and rank.link.poll(SETTLE_SECONDS):
            word = rank.heard(kills)
            if isinstance(word, str) and not rank.done:
                return word
            rank.done = rank.done or isinstance(word, Record)
    return None
