"""Has a run done by several processes of this machine: starts what forks them, and hears what becomes of the run.

    this process ──▶ lora_bench.execute.executors.rank_server, which has the imports done ──▶ a fork for each rank

This process holds the claim on the run and publishes its record; the ranks take the steps, and the first of them scores. When
this process ends, in whatever way, the one that forks sees it, and ends the ranks.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from multiprocessing.connection import Connection
from typing import Any

from lora_bench.errors import LoraBenchError
from lora_bench.records.environment import RANK_DEVICES, cuda_devices, too_few_devices
from lora_bench.records.outcomes import SIGNAL
from lora_bench.records.record import Record
from lora_bench.training.callbacks import Notify, stop_requested
from lora_bench.training.job import Job
from lora_bench.util.heartbeat import beat

# How often a stop is looked for.
LOOK_SECONDS = 0.2

# The signal by which a process writes where it stands.
STACKS = "SIGUSR1"


class RankLost(LoraBenchError):
    """A rank, or what forks ranks, ended before the run had a record."""


class _Server:
    """The process that forks ranks, for this process's runs one after the other."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        # Stops are told over the connection, also where a signal comes to the whole group of processes.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "lora_bench.execute.executors.rank_server", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                # What libraries print is no output of this program.
                stdout=2,
                pass_fds=[theirs.fileno()],
                env={**os.environ, "TOKENIZERS_PARALLELISM": "false", "PYTHONWARNINGS": "ignore"},
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()
        self.connection: Connection[Any, Any] = Connection(ours.detach())
        self.stacks_wanted = False

    def end(self) -> None:
        """End it, and with it whatever it forked."""
        self.connection.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        self.process.kill()
        self.process.wait()


_server: _Server | None = None


def over_ranks(job: Job, notify: Notify | None) -> Record:
    """The record of a run over as many processes as its spec says.

    Args:
        job: A run that this process is at.
        notify: Told of each step.

    Raises:
        RankLost: If a rank ended.
        LoraBenchError: If there are not as many devices.
    """
    global _server
    devices = _devices(job.spec.training.processes)
    if _server is None or _server.process.poll() is not None:
        _server = _Server()
    try:
        return _hear(_server, job, devices, notify)
    except BaseException:
        end_ranks()
        raise


def ask_for_stacks() -> None:
    """Have every rank of the run that this process is at write where it stands."""
    if _server is not None:
        _server.stacks_wanted = True


def end_ranks() -> None:
    """End what this process keeps for further runs over several processes."""
    global _server
    if _server is not None:
        _server.end()
        _server = None


def _devices(processes: int) -> list[str]:
    """The CUDA devices of the ranks; none where they are to train on the CPU."""
    if not hasattr(os, "fork"):
        raise LoraBenchError(f"a run over {processes} processes forks them, which this system cannot")
    given = os.environ.get(RANK_DEVICES)
    found = given.split(",") if given else cuda_devices()
    missing = too_few_devices(processes, found)
    if missing is not None:
        raise LoraBenchError(missing)
    return found[:processes]


def _hear(server: _Server, job: Job, devices: list[str], notify: Notify | None) -> Record:
    """What becomes of a run; steps and signs of life are passed on."""
    asked = begun = server.stacks_wanted = False
    try:
        server.connection.send((job, devices))
        while True:
            stop = stop_requested()
            if stop is not None and not asked:
                asked = True
                server.connection.send(stop)
            if server.stacks_wanted:
                server.stacks_wanted = False
                server.connection.send(STACKS)
            if not server.connection.poll(LOOK_SECONDS):
                if not begun:
                    beat()  # it is at its imports
                continue
            begun = True
            said = server.connection.recv()
            if isinstance(said, Record):
                return said
            if isinstance(said, str):
                raise RankLost(said)
            beat()
            if said is not None and notify is not None:
                notify(*said)
    except (EOFError, OSError):
        raise RankLost(_end_of(server)) from None


def _end_of(server: _Server) -> str:
    """How the process that forks ranks ended."""
    try:
        code = server.process.wait(10)
    except subprocess.TimeoutExpired:
        code = 0
    if code >= 0:
        return "the process that forks ranks ended"
    return f"{SIGNAL} {signal.Signals(-code).name}: it ended the process that forks ranks"
