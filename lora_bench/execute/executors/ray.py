"""Runs on a Ray cluster: long-lived actors on as many GPUs and hosts as it has, each doing one unit of work after another.

The runs folder is on a file system that all nodes share, and it decides: an actor locks a run as any other process does, and a
published run is done, whichever process did it. A lost node costs the work of its actors since their last checkpoints; other
actors resume from these. Through Ray go only the spec of a run and, on the way back, its progress and its record.

The work never waits for a single actor. An actor that has no place yet, such as the replacement of one whose node is gone, gets
no work before it has reported.
"""

import logging
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lora_bench.errors import LoraBenchError, WorkersLost
from lora_bench.execute.executors.executor import Alive, Lost, PackFailed, done_alone, pack_failed, patience_with
from lora_bench.execute.executors.local import CLEAN
from lora_bench.execute.executors.ray_actor import Said, Worker
from lora_bench.records.record import Record
from lora_bench.records.run_lock import Elsewhere
from lora_bench.training.job import Event, Job, Note, Word
from lora_bench.util.atomic_files import TEMPORARY, make_folder
from lora_bench.util.process_identity import this_process
from lora_bench.version import __version__

# A run that loses its actor so often at one step is given up, and so are actors after as many failed starts.
MOST_LOSSES = 3
LOOK_SECONDS = 0.5

# Variables of the command's environment that an actor gets: places of files, and use of the hub.
HANDED_ON = ("HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE")
# If the listener is no head of a cluster, Ray tries 20 times for 40 s each; with these settings it takes 16 s in all.
IMPATIENT = {"RAY_NUM_REDIS_GET_RETRIES": "1", "RAY_py_gcs_connect_timeout_s": "5"}
CONNECT_SECONDS = 5.0
# Ray runs its workers at a niceness of 15, behind all else on the machine; here they are the main work.
OF_ITS_OWN = {"RAY_worker_niceness": "0"}


@dataclass(eq=False)
class _Actor:
    """An actor, by Ray's handle, and its current work; `word` is its unanswered call, or None if it waits for work."""

    handle: Any
    word: Any
    node: str | None = None
    unit: list[Job] = field(default_factory=list)
    # Jobs of its unit that it has sent messages about; the others wait until one of these leaves the pack.
    begun: set[str] = field(default_factory=set)
    # True if it does several jobs at once, as a pack.
    together: bool = False
    # True if any of its jobs failed.
    failed: bool = False
    # Sentence on its pack, if that failed.
    note: str | None = None
    # Time of its last progress, and True if it was ended for lack of progress.
    heard: float = field(default_factory=time.monotonic)
    overdue: bool = False
    # True if it ended without a message: it, or its node, is lost.
    cut_off: bool = False
    told_to_stop: bool = False

    @property
    def at_once(self) -> list[Job]:
        """Jobs that it is doing now."""
        begun = [job for job in self.unit if job.run_id in self.begun]
        return begun or self.unit[: self.unit[0].at_once if self.unit else 0]


class RayWorkers:
    """The executor of actors on a Ray cluster. Raise LoraBenchError if the cluster has no place for any actor.

    *workers* counts those without a place yet too; None for as many as fit. Each needs *memory_bytes* on a CPU. *log* is the
    file for errors of lost actors, beside the runs. *patience* gives the seconds that a job may be silent before its actor is
    ended.
    """

    def __init__(
        self,
        ray: Any,
        workers: int | None,
        *,
        threads: int,
        memory_bytes: int,
        log: Path,
        patience: Callable[[Job], float | None] = lambda job: None,
    ) -> None:
        self._ray = ray
        self._log = log
        self._patience = patience
        self._stopping: str | None = None
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        self.on_gpu = any(node.get("GPU") for node in nodes)
        self._needs = {"CPU": threads, "GPU": 1} if self.on_gpu else {"CPU": threads, "memory": memory_bytes}
        self.workers = places(nodes, self._needs) if workers is None else workers
        if not self.workers:
            more = "a GPU" if self.on_gpu else f"{memory_bytes / 2**20:,.0f} MiB of memory"
            raise LoraBenchError(
                f"no node of the Ray cluster has {threads} CPUs and {more} for a run; "
                "use --workers N to wait for nodes that join later"
            )
        self._units: list[list[Job]] = []
        # Progress of each run, its progress at the last loss, and the number of losses there.
        self._furthest: dict[str, int] = {}
        self._losses: dict[str, tuple[int, int]] = {}
        self._given_up: dict[str, Lost[Job]] = {}
        # Number of actors lost before they reported, since the last report, and the number that ends the work.
        self._unborn, self._most_unborn = 0, MOST_LOSSES

    def stop(self, name: str) -> None:
        """Ask every actor to write a checkpoint and end, at the next look, because a signal handler calls this."""
        self._stopping = name

    def submit(self, units: Sequence[Sequence[Job]]) -> None:
        self._units = [list(unit) for unit in units]

    def results(self, tell: Callable[[Word], None]) -> Generator[Record | Elsewhere | Lost[Job], None, None]:
        """Yield the record of each job as it is done.

        Raise WorkersLost if actors cannot start, the node of this process dies, or nodes do not see the folders of the runs,
        base models and data.
        """
        units, self._units = self._units, []
        # A run that was given up returns once its counter shows that its owner is dead.
        yield from (self._given_up[job.run_id] for unit in units for job in unit if job.run_id in self._given_up)
        left = [[_anywhere(job) for job in unit if job.run_id not in self._given_up] for unit in units]
        waiting = [unit for unit in left if unit]
        make_folder(self._log.parent)
        prefix = f"{TEMPORARY}{this_process().tag}-"
        with tempfile.NamedTemporaryFile(prefix=prefix, dir=self._log.parent.absolute()) as witness:
            seen = {witness.name: str(self._log.parent)}
            seen |= {str(path): str(path.parent) for unit in waiting for job in unit for path in _read(job)}
            actors = [self._begun(seen) for _ in range(min(self.workers, len(waiting)))]
            self._most_unborn = MOST_LOSSES * len(actors)
            try:
                while waiting or any(actor.unit for actor in actors):
                    if self._stopping is not None and not any(actor.unit for actor in actors):
                        return
                    for actor in actors:
                        self._direct(actor, waiting)
                    words = {actor.word: actor for actor in actors if actor.word is not None}
                    self._ray.wait(list(words), timeout=LOOK_SECONDS)
                    ready, _ = self._ray.wait(list(words), num_returns=len(words), timeout=0)
                    if not ready:
                        self._check_own_node()
                    for actor in map(words.__getitem__, ready):
                        reason = yield from self._heard(actor, tell)
                        if reason is not None:
                            self._end(actor)
                            actors[actors.index(actor)] = self._begun(seen)
                            yield from self._put_back(actor, reason, waiting, tell)
                    # After the messages are read: if this process stood still, no actor was silent.
                    for actor in actors:
                        self._press(actor)
            finally:
                for actor in actors:
                    self._end(actor)

    def _check_own_node(self) -> None:
        """Raise `WorkersLost` if the node of this process is dead: without it no actor answers, and none starts."""
        own = self._ray.get_runtime_context().get_node_id()
        if any(node["NodeID"] == own and not node["Alive"] for node in self._ray.nodes()):
            raise WorkersLost("the Ray node of this command has died; run the same command again to continue")

    def _begun(self, seen: dict[str, str]) -> _Actor:
        environment = {name: os.environ[name] for name in HANDED_ON if name in os.environ}
        environment |= {name: text for name, text in os.environ.items() if name.startswith("LORA_BENCH_")}
        named = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}
        options = {named[name]: much for name, much in self._needs.items()}
        handle = self._ray.remote(Worker).options(**options).remote(environment)
        return _Actor(handle, handle.hello.remote(__version__, seen))

    def _end(self, actor: _Actor) -> None:
        self._ray.kill(actor.handle)

    def _direct(self, actor: _Actor, waiting: list[list[Job]]) -> None:
        if actor.word is None and waiting and self._stopping is None:
            actor.unit, actor.begun, actor.note = waiting.pop(0), set(), None
            actor.together, actor.heard = len(actor.unit) > 1, time.monotonic()
            actor.word = actor.handle.take.remote(list(actor.unit))
        elif actor.unit and self._stopping is not None and not actor.told_to_stop:
            actor.told_to_stop = True
            actor.handle.stop.remote(self._stopping)

    def _press(self, actor: _Actor) -> None:
        """End an actor that has been silent too long."""
        if actor.overdue:
            return
        patience = patience_with([self._patience(job) for job in actor.at_once])
        if patience is not None and time.monotonic() - actor.heard > patience:
            actor.overdue = True
            self._end(actor)

    def _heard(self, actor: _Actor, tell: Callable[[Word], None]) -> Generator[Record | Elsewhere, None, str | None]:
        """Pass on an actor's messages; return the reason why it must be replaced, or None."""
        try:
            said = self._ray.get(actor.word)
        except self._ray.exceptions.RayError as error:
            with self._log.open("a", encoding="utf-8") as log:
                log.write(f"an actor of the Ray cluster was lost: {error}\n")
            actor.cut_off = True
            yield from self._published(actor)
            return type(error).__name__
        actor.word = None
        if not isinstance(said, Said):
            actor.node, fault = said
            if fault is not None:
                raise WorkersLost(f"the Ray cluster cannot be used: {fault}")
            self._unborn = 0
            return None
        if said.words:
            actor.heard = time.monotonic()
        for word in said.words:
            if isinstance(word, Note):
                actor.note = word.text if isinstance(word, PackFailed) else actor.note
                tell(word)
                continue
            actor.begun.add(word.run_id)
            if isinstance(word, Event):
                self._furthest[word.run_id] = max(word.step, self._furthest.get(word.run_id, 0))
                tell(word)
            elif not isinstance(word, Alive):
                actor.unit = [job for job in actor.unit if job.run_id != word.run_id]
                actor.failed |= word.status not in CLEAN
                yield word
        if not said.ended:
            actor.word = actor.handle.said.remote()
            return None
        if said.failure is None and self._stopping is not None:
            actor.unit = []  # a stop came before these began
        # An actor ended for its silence may still have finished its unit.
        return said.failure or ("a run of its failed" if actor.failed or actor.unit or actor.overdue else None)

    def _published(self, actor: _Actor) -> Iterator[Record]:
        """Yield the records that an actor published before it was lost."""
        if actor.node is None:
            self._unborn += 1
            if self._unborn >= self._most_unborn:
                raise WorkersLost(f"no worker can start on the Ray cluster; see {self._log}")
        for job in list(actor.unit):
            record = job.folder.record()
            if record is not None:
                actor.unit.remove(job)
                yield record

    def _put_back(
        self, actor: _Actor, reason: str, waiting: list[list[Job]], tell: Callable[[Word], None]
    ) -> Iterator[Lost[Job]]:
        """Return the work of a lost actor to the queue; give up runs that lose every actor."""
        if self._stopping is not None or not actor.unit:
            return
        at_work = actor.at_once
        if len(at_work) < len(actor.unit):
            waiting.insert(0, [job for job in actor.unit if job not in at_work])
        for job in at_work:
            step, times = self._losses.get(job.run_id, (-1, 0))
            furthest = self._furthest.get(job.run_id, 0)
            self._losses[job.run_id] = (furthest, times + 1 if furthest <= step else 1)
        once = actor.cut_off and not actor.overdue and all(self._losses[job.run_id][1] == 1 for job in at_work)
        if actor.together and not once:
            # The unit failed as a whole, or loses its actors. The run at fault is unknown, so each is done alone.
            for job in at_work:
                del self._losses[job.run_id]
            if actor.note is None:
                actor.note = pack_failed("it made no progress" if actor.overdue else reason)
                tell(Note(at_work[0].run_id, actor.note))
            waiting[:0] = done_alone(at_work, actor.note)
            return
        again = []
        for job in at_work:
            if actor.overdue:
                self._given_up[job.run_id] = Lost(job, f"no progress for {self._patience(job):.0f} s", "timeout")
            elif self._losses[job.run_id][1] >= MOST_LOSSES:
                self._given_up[job.run_id] = Lost(job, f"its Ray actor was lost {MOST_LOSSES} times there: {reason}")
            else:
                again.append(job)
                continue
            yield self._given_up[job.run_id]
        if again:
            waiting.insert(0, again)


def places(nodes: Sequence[Mapping[str, float]], needs: Mapping[str, float]) -> int:
    """Return how many actors with such *needs* find room at once, none of them spread over two nodes."""
    return sum(min(int(node.get(name, 0) // much) for name, much in needs.items()) for node in nodes)


def _read(job: Job) -> list[Path]:
    """Return the user's files and folders that a run reads."""
    data = job.task.data
    own = () if data.asset is not None or data.hub is not None else data.files.values()
    return [job.base_model.folder, *(job.task_base / Path(file).expanduser() for file in own)]


def _anywhere(job: Job) -> Job:
    """Return a job with absolute folders, independent of the working folder."""
    return replace(
        job,
        task_base=job.task_base.absolute(),
        base_model=replace(job.base_model, folder=job.base_model.folder.absolute()),
        folder=replace(job.folder, path=job.folder.path.absolute()),
    )


@contextmanager
def connected(address: str | None) -> Iterator[Any]:
    """Connect Ray to a cluster, and disconnect afterwards; None without an address.

    It is HOST:PORT; "auto" for the cluster of this machine or of `RAY_ADDRESS`; or "local" to start one on this machine, which
    ends with the work. Raise LoraBenchError if Ray is not installed, or no cluster answers there.
    """
    if address is None:
        yield None
        return
    wanted = OF_ITS_OWN if address == "local" else IMPATIENT
    settings = {name: text for name, text in wanted.items() if name not in os.environ}
    term = signal.getsignal(signal.SIGTERM)
    os.environ.update(settings)
    try:
        import ray

        own = not ray.is_initialized()
        if own:
            _knock(address)
            ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except ImportError:
        raise LoraBenchError("--ray needs Ray: pip install 'lora_bench[ray]'") from None
    except Exception as error:  # Ray raises bare exceptions too, if a cluster starts too slowly
        said = " ".join(str(error).split())
        raise LoraBenchError(
            f"cannot use a Ray cluster at {address!r}; give auto, local, or HOST:PORT: {said}"
        ) from None
    finally:
        for name in settings:
            del os.environ[name]
        if term is not None and threading.current_thread() is threading.main_thread():
            # Ray ends the process at SIGTERM, but the caller may have to finish its work first.
            signal.signal(signal.SIGTERM, term)
    try:
        yield ray
    finally:
        if own:
            ray.shutdown()


def _knock(address: str) -> None:
    """Check that a process listens at a HOST:PORT, which is no client address: these errors come earlier than Ray's."""
    if "://" in address:
        raise ValueError("run the command on a node of the cluster; Ray's client addresses are not supported")
    host, _, port = address.rpartition(":")
    if port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
