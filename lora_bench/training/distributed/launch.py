"""Do a run over several processes of this machine: start the rank server, and receive the result.

    this process ──▶ lora_bench.execute.executors.rank_server, with its imports done ──▶ a fork for each worker rank

This process holds the run lock and publishes the record. The worker ranks take the steps, and the first of them scores. If this
process ends for any reason, the rank server notices and ends the worker ranks.
"""

import contextlib
import os
import signal
import socket
import subprocess
from multiprocessing.connection import Connection
from typing import Any

from lora_bench.errors import LoraBenchError
from lora_bench.records.environment import RANK_DEVICES, cuda_devices, too_few_devices
from lora_bench.records.outcomes import SIGNAL
from lora_bench.records.record import Record
from lora_bench.training.callbacks import stop_requested
from lora_bench.training.job import Job, Notify
from lora_bench.util.child_process import our_command
from lora_bench.util.heartbeat import beat

# Interval between checks for a stop.
LOOK_SECONDS = 0.2

# Signal at which a process writes its stack.
STACKS = "SIGUSR1"


class RankLost(LoraBenchError):
    """A worker rank, or the rank server, ended before the run had a record."""


class _Server:
    """The rank server of this process, used for one run after another."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        # Stops are sent over the connection, even if a signal goes to the whole process group.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
        try:
            self.process = subprocess.Popen(
                our_command("lora_bench.execute.executors.rank_server", str(theirs.fileno())),
                stdin=subprocess.DEVNULL,
                # Output of libraries is no output of this program.
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
        """End the server and its forks."""
        self.connection.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        self.process.kill()
        self.process.wait()


_server: _Server | None = None


def over_ranks(job: Job, notify: Notify | None) -> Record:
    """Return the record of a run over its processes. Raise RankLost if one ended, LoraBenchError for too few devices."""
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
    """Make every worker rank of the current run write its stack."""
    if _server is not None:
        _server.stacks_wanted = True


def end_ranks() -> None:
    """End the rank server that this process keeps for further runs."""
    global _server
    if _server is not None:
        _server.end()
        _server = None


def _devices(processes: int) -> list[str]:
    """Return the CUDA devices of the worker ranks; empty if they train on the CPU."""
    if not hasattr(os, "fork"):
        raise LoraBenchError(f"a run over {processes} processes needs fork, which this system lacks")
    given = os.environ.get(RANK_DEVICES)
    found = given.split(",") if given else cuda_devices()
    missing = too_few_devices(processes, found)
    if missing is not None:
        raise LoraBenchError(missing)
    return found[:processes]


def _hear(server: _Server, job: Job, devices: list[str], notify: Notify | None) -> Record:
    """Return the record of a run; pass on its steps and heartbeat."""
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
                    beat()  # the server is still importing
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
    try:
        code = server.process.wait(10)
    except subprocess.TimeoutExpired:
        code = 0
    if code >= 0:
        return "the process that forks the worker ranks ended"
    return f"{SIGNAL} {signal.Signals(-code).name}: it ended the process that forks the worker ranks"
