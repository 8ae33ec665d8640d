"""Worker processes on this machine, made by a fork server.

Each worker is long-lived and does one unit after another. After a failed run its worker is replaced, so that no failure affects
the next run. A worker that dies loses only its current job. If a run makes no progress, its worker is asked for its stack, then
to end, and is then killed with all its children.
"""

import contextlib
import itertools
import json
import os
import selectors
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Generic

from lora_bench.errors import WorkersLost
from lora_bench.execute.executors.executor import (
    Alive,
    DoneT,
    JobT,
    Lost,
    PackFailed,
    done_alone,
    pack_failed,
    patience_with,
)
from lora_bench.records.environment import RANK_DEVICES, cuda_devices
from lora_bench.records.outcomes import cause
from lora_bench.training.job import Event, Note, Word
from lora_bench.util.child_process import our_command
from lora_bench.util.failpoints import reach
from lora_bench.util.processes import ended_within, kill_session, memory_kills

# A worker may end while its first message is still on the way; after so many looks there is none.
MOST_UNSEEN = 5

# Seconds that a worker without progress has to write its stack, and then to write a checkpoint.
STACK_SECONDS = 1.0
GRACE_SECONDS = 15.0

SPAWNS = (
    "a package that is imported here starts CUDA, which no fork of a process can use then; so each worker does its imports "
    "itself, which takes seconds"
)

# Statuses after which a worker is reused.
CLEAN = ("ok", "unsupported", "elsewhere")


@dataclass
class _Worker(Generic[JobT]):
    pid: int
    connection: "Connection[Any, Any]"
    environment: dict[str, str]
    at: list[JobT] = field(default_factory=list)
    spent: bool = False
    # Time of its last message, and number of means used since to end it.
    heard: float = field(default_factory=time.monotonic)
    pressed: int = 0
    # Jobs of its unit that it has sent messages about.
    begun: set[str] = field(default_factory=set)
    # True if it does several jobs at once, as a pack.
    together: bool = False
    # Sentence of it on its pack.
    note: str | None = None
    # True if any of its jobs failed.
    failed: bool = False

    @property
    def at_once(self) -> list[JobT]:
        """Jobs that it is doing now, with the next of its unit, which it may be starting."""
        begun = [job for job in self.at if job.run_id in self.begun]
        return begun + [job for job in self.at if job.run_id not in self.begun][:1]

    def given_back(self, reason: str) -> tuple[list[list[JobT]], Note | None]:
        """Return units of the rest of a dead worker's pack, each at work alone, and a sentence if the worker sent none."""
        waits = [job for job in self.at if self.begun and job.run_id not in self.begun]
        apart = [job for job in self.at if job not in waits]
        note = self.note or pack_failed("it made no progress" if self.overdue else reason)
        alone = done_alone(apart, note)
        said = Note(apart[0].run_id, note) if self.note is None and apart else None
        return ([*alone, waits] if waits else alone), said

    @property
    def overdue(self) -> bool:
        """Return True if it was told to end because it made no progress."""
        return self.pressed > 1


class LocalWorkers(Generic[JobT, DoneT]):
    """Runs units of work in worker processes on this machine, each with its environment, such as the CUDA device to see.

    With *fresh* every unit has a process that has done nothing else. *patience* gives the seconds that a job may be silent
    before its worker is ended; None for no limit.
    """

    _server: subprocess.Popen[bytes] | None = None
    _listener: socket.socket
    _selector: selectors.BaseSelector
    _tell: Callable[[Word], None]

    def __init__(
        self,
        workers: int,
        log: Path,
        environments: Sequence[dict[str, str]] | None = None,
        *,
        fresh: bool = False,
        patience: Callable[[JobT], float | None] = lambda job: None,
    ) -> None:
        self.fresh = fresh
        self.patience = patience
        self.environments = list(environments or [{} for _ in range(workers)])
        self.log = log
        self.workers = len(self.environments)
        self.on_gpu = any("CUDA_VISIBLE_DEVICES" in environment for environment in self.environments)
        self.stopping = False
        # Units that wait, environments of workers to be forked, and those of forked workers whose first message is not read.
        self._waiting: list[list[JobT]] = []
        self._free: list[dict[str, str]] = []
        self._unreported: list[dict[str, str]] = []
        # The workers by their numbers, and the reason for the end of each that is still to be removed.
        self._at_work: dict[int, _Worker[JobT]] = {}
        self._dead: dict[int, str] = {}

    def stop(self, name: str) -> None:
        self.stopping = True
        if self._server is not None:
            with contextlib.suppress(WorkersLost):
                self._tell_server(f"stop {name}")

    def submit(self, units: Sequence[Sequence[JobT]]) -> None:
        self._waiting = [list(unit) for unit in units]

    def results(self, tell: Callable[[Word], None]) -> Generator[DoneT | Lost[JobT], None, None]:
        self._tell, self._kills, self._unseen = tell, memory_kills(), 0
        self._free, self._unreported = self.environments[: len(self._waiting)], []
        self._at_work, self._dead = {}, {}
        with _short_folder() as folder, selectors.DefaultSelector() as self._selector:
            address = str(Path(folder) / "workers")
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(address)
            self._listener.listen()
            reach("workers.start")
            self._start_server(address)
            assert self._server is not None and self._server.stdout is not None
            self._selector.register(self._listener, selectors.EVENT_READ, "report")
            self._selector.register(self._server.stdout, selectors.EVENT_READ, "server")
            try:
                while self._waiting or self._unreported or self._is_busy:
                    if self.stopping and not self._is_busy:
                        return
                    self._fork()
                    yield from self._listen()
                    for pid, reason in list(self._dead.items()):
                        yield from self._remove(pid, reason)
                    self._press()
                    self._send()
            finally:
                self._listener.close()
                self._end_server(at_once=not self._at_work)
                self._waiting = []
                reach("workers.end")

    @property
    def _is_busy(self) -> bool:
        return any(worker.at for worker in self._at_work.values())

    def _fork(self) -> None:
        """Ask for the workers that are lacking: units wait for which none is idle or on its way."""
        while self._free:
            idle = sum(not worker.at for worker in self._at_work.values())
            if len(self._unreported) + idle >= len(self._waiting):
                return
            reach("workers.fork")
            self._unreported.append(self._free.pop(0))
            self._tell_server(f"fork {json.dumps(self._unreported[-1])}")

    def _listen(self) -> Iterator[DoneT | Lost[JobT]]:
        """Read what workers and their server have to say, or wait a second for it."""
        for key, _ in self._selector.select(timeout=1.0):
            if key.data == "report":
                self._welcome()
            elif key.data == "server":
                self._dead |= self._ended(self._tell)
            else:
                yield from self._hear(key.data)

    def _welcome(self) -> None:
        link, _ = self._listener.accept()
        connection: Connection[Any, Any] = Connection(link.detach())
        try:
            # Workers forked together report in any order.
            pid, environment = connection.recv()
        except (EOFError, OSError):  # it ended before its first message; the server reports it
            connection.close()
            return
        self._unreported.remove(environment)
        self._at_work[pid] = _Worker(pid, connection, environment)
        self._selector.register(connection, selectors.EVENT_READ, self._at_work[pid])

    def _remove(self, pid: int, reason: str) -> Iterator[DoneT | Lost[JobT]]:
        """Remove a dead worker once its messages are read; its jobs wait again or are lost."""
        worker = self._at_work.get(pid)
        if worker is None:
            self._unseen += 1
            if self._unseen > MOST_UNSEEN:
                raise WorkersLost(f"a worker ended before its first run: {reason}; see {self.log}")
            return
        # Its messages from before its end are read first.
        if not worker.connection.closed:
            yield from self._hear(worker)
        if not worker.connection.closed:
            return
        self._take_back(worker, reason)
        yield from (self._lost(worker, job, reason, pid) for job in worker.at)
        self._free.append(self._at_work.pop(pid).environment)
        del self._dead[pid]

    def _take_back(self, worker: _Worker[JobT], reason: str) -> None:
        """Let the work of a dead worker wait again, unless a job of it is at fault."""
        if reason == cause(0) and not worker.begun and worker.at:
            # It was asked to end after its previous unit, and never received this one.
            self._waiting.insert(0, worker.at)
            worker.at = []
        if not worker.together:
            return
        units, note = worker.given_back(reason)
        self._waiting[:0] = units
        worker.at = []
        if note is not None and not self.stopping:
            self._tell(note)

    def _send(self) -> None:
        for worker in self._at_work.values():
            if worker.at or worker.spent or not self._waiting or self.stopping:
                continue
            reach("workers.send")
            worker.at = list(self._waiting.pop(0))
            worker.heard = time.monotonic()
            worker.begun.clear()
            worker.note = None
            worker.together = len(worker.at) > 1
            # If it died while it waited for work, the server reports its end.
            with contextlib.suppress(OSError):
                worker.connection.send(worker.at)

    def _press(self) -> None:
        """Use the next means on each worker that has been silent too long."""
        for pid, worker in self._at_work.items():
            patience = patience_with([self.patience(job) for job in worker.at_once])
            if patience is None:
                continue
            silent = time.monotonic() - worker.heard - patience
            means = (("SIGUSR1", 0.0), ("SIGTERM", STACK_SECONDS), ("SIGKILL", STACK_SECONDS + GRACE_SECONDS))
            for name, after in means[worker.pressed :]:
                if silent < after:
                    break
                worker.pressed += 1
                if name == "SIGUSR1":
                    with self.log.open("ab") as log:
                        log.write(f"no progress for {patience:.0f} s in {worker.at[0].run_id}; its stack:\n".encode())
                self._tell_server(f"signal {pid} {name}")

    def _lost(self, worker: _Worker[JobT], job: JobT, reason: str, pid: int | None = None) -> Lost[JobT]:
        if not worker.overdue:
            return Lost(job, reason, pid=pid)
        patience = self.patience(job)
        return Lost(job, f"no progress for {patience:.0f} s; {self.log.name} has its stack", "timeout", pid)

    def _hear(self, worker: _Worker[JobT]) -> Iterator[DoneT | Lost[JobT]]:
        """Pass on a worker's message; close its connection if it has ended, or must end."""
        try:
            message = worker.connection.recv()
        except (EOFError, OSError):
            self._close(worker)
            return
        if not isinstance(message, Note):
            worker.begun.add(message.run_id)
        if not worker.overdue:
            worker.heard, worker.pressed = time.monotonic(), 0
        if isinstance(message, PackFailed):
            worker.note = message.text
        if isinstance(message, Event | Note):
            self._tell(message)
        if isinstance(message, Event | Note | Alive):
            return
        (job,) = [job for job in worker.at if job.run_id == message.run_id]
        got_on_late = worker.overdue and message.status == "interrupted"
        if got_on_late and worker.together:
            return  # the job at fault is unknown: it stays among those repeated alone
        worker.at.remove(job)
        worker.failed |= message.status not in CLEAN
        if not worker.at and (self.fresh or worker.overdue or worker.failed):
            worker.spent = True
            self._close(worker)
        # It made progress after all, and wrote a checkpoint when it was told to end.
        yield self._lost(worker, job, "") if got_on_late else message

    def _close(self, worker: _Worker[JobT]) -> None:
        """Hear no more of a worker."""
        if not worker.connection.closed:
            self._selector.unregister(worker.connection)
            worker.connection.close()

    def _start_server(self, address: str) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            # In a session of its own: Ctrl-C reaches this process alone, which then asks the workers to stop.
            self._server = subprocess.Popen(
                our_command("lora_bench.execute.executors.fork_server", address),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                # A signal may come while a line is written, and its handler writes another.
                bufsize=0,
                start_new_session=True,
                env={**os.environ, "TOKENIZERS_PARALLELISM": "false", "PYTHONWARNINGS": "ignore::FutureWarning"},
            )

    def _tell_server(self, line: str) -> None:
        assert self._server is not None and self._server.stdin is not None
        try:
            self._server.stdin.write(f"{line}\n".encode())
        except (OSError, ValueError):
            raise WorkersLost(f"the server that starts workers is gone; see the end of {self.log}") from None

    def _ended(self, tell: Callable[[Word], None]) -> dict[int, str]:
        """Return the workers that ended, with the reason; pass on what else the server says, unless it has ended itself."""
        assert self._server is not None and self._server.stdout is not None
        chunk = os.read(self._server.stdout.fileno(), 65536)
        if not chunk:
            raise WorkersLost(f"the server that starts workers ended; see the end of {self.log}")
        ended = {}
        kills, before = memory_kills(), self._kills
        for line in chunk.decode().splitlines():
            word, *numbers = line.split()
            if word == "spawns":
                tell(Note("", SPAWNS))
            if word == "ended":
                pid, status = map(int, numbers)
                short = None not in (kills, before) and kills != before
                # A memory kill counted so far explains no later end.
                self._kills = kills
                ended[pid] = cause(os.waitstatus_to_exitcode(status), out_of_memory=short)
        return ended

    def _end_server(self, *, at_once: bool) -> None:
        """End the server and its workers; with *at_once* kill it, because without workers it may be busy importing."""
        if self._server is None or self._server.stdin is None:
            return
        with contextlib.suppress(OSError):
            self._server.stdin.close()
        ended_within(self._server, 0 if at_once else 10)
        # The server leads its session, which contains its workers and their children.
        kill_session(self._server.pid)
        self._server.wait()


def _short_folder() -> tempfile.TemporaryDirectory[str]:
    """Return a folder for the socket, whose path may be little over 100 bytes long."""
    usual = tempfile.gettempdir()
    return tempfile.TemporaryDirectory(prefix="lora_bench-", dir=usual if len(os.fsencode(usual)) < 60 else "/tmp")


def worker_environments(workers: int, processes: int) -> list[dict[str, str]]:
    """Return the environment of each worker: on CUDA each sees one device, in turn, and knows those of its worker ranks."""
    devices = cuda_devices()
    each = [{"CUDA_VISIBLE_DEVICES": device} for device in devices]
    if processes > 1 and devices:
        groups = [devices[at : at + processes] for at in range(0, len(devices) - processes + 1, processes)] or [devices]
        each = [{"CUDA_VISIBLE_DEVICES": group[0], RANK_DEVICES: ",".join(group)} for group in groups]
    return list(itertools.islice(itertools.cycle(each or [{}]), workers))
