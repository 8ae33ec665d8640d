"""Runs on a Ray cluster: long-lived actors on as many GPUs and hosts as it has, each doing one unit of work after another.

The runs folder is on a file system that all nodes share, and it decides: an actor locks a run as any other process does, and a
published run is done, whichever process did it. So every actor gets all units, its own share first, and passes over runs that
are done or locked. A lost node costs the work of its actors since their last checkpoints; others resume from these.

A worker process beside the actor does the work, as on one machine (`lora_bench.execute.executors.local`), and a run that fails,
dies or hangs is dealt with there. Through Ray go specs of runs and, on the way back, their progress and their records.

The work never waits for a single actor. One that has no place yet, such as the replacement of one whose node is gone, gets no
work before it has reported.
"""

import logging
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lora_bench.errors import LoraBenchError, WorkersLost
from lora_bench.execute.executors.executor import Lost
from lora_bench.execute.executors.ray_actor import END, Worker
from lora_bench.records.record import Record
from lora_bench.records.run_lock import Elsewhere
from lora_bench.training.job import Event, Job, Note, Word
from lora_bench.util.atomic_files import TEMPORARY, make_folder
from lora_bench.util.process_identity import this_process
from lora_bench.version import __version__

# Losses for each actor, without a result between them, after which the work ends.
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
    """An actor with its share and unanswered call; *whole* says that none was lost since, so that it passes over no run."""

    share: int
    handle: Any
    word: Any
    node: str | None = None
    whole: bool = True
    told_to_stop: bool = False


class RayWorkers:
    """The executor of actors on a Ray cluster. Raise LoraBenchError if the cluster has no place for any actor.

    *workers* counts those without a place yet too; None for as many as fit. Each needs *memory_bytes* on a CPU. *log* is the
    file for errors, beside the runs. *patience* gives the seconds that a job may be silent before its worker process is ended.
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
        self._actors: list[_Actor] = []
        # Jobs without a result, by run id, and the actor that trains each.
        self._left: dict[str, Job] = {}
        self._owners: dict[str, _Actor] = {}
        # Number of actors lost since the last result.
        self._lost = 0
        # True once an actor has been at all units: what is left then belongs to others.
        self._passed = False

    def stop(self, name: str) -> None:
        """Ask every actor to write a checkpoint and end, at the next look, because a signal handler calls this."""
        self._stopping = name

    def submit(self, units: Sequence[Sequence[Job]]) -> None:
        self._units = [[_anywhere(job) for job in unit] for unit in units]

    def results(self, tell: Callable[[Word], None]) -> Generator[Record | Elsewhere | Lost[Job], None, None]:
        """Yield the record of each job as it is done.

        Raise WorkersLost if actors cannot start, the node of this process dies, or nodes do not see the folders of the runs,
        base models and data.
        """
        self._left, self._owners = {job.run_id: job for unit in self._units for job in unit}, {}
        make_folder(self._log.parent)
        prefix = f"{TEMPORARY}{this_process().tag}-"
        with tempfile.NamedTemporaryFile(prefix=prefix, dir=self._log.parent.absolute()) as witness:
            seen = {witness.name: str(self._log.parent)}
            seen |= {str(path): str(path.parent) for job in self._left.values() for path in _read(job)}
            shares = range(min(self.workers, len(self._units)))
            self._actors = [self._begun(share, seen) for share in shares]
            self._passed = False
            try:
                while self._left and (
                    any(actor.node for actor in self._actors) or not (self._passed or self._stopping)
                ):
                    self._pass_on_a_stop()
                    words = {actor.word: actor for actor in self._actors}
                    self._ray.wait(list(words), timeout=LOOK_SECONDS)
                    ready, _ = self._ray.wait(list(words), num_returns=len(words), timeout=0)
                    if not ready:
                        self._check_own_node()
                    for actor in map(words.__getitem__, ready):
                        try:
                            said = self._ray.get(actor.word)
                        except self._ray.exceptions.RayError as error:
                            self._replace(actor, error, seen)
                            continue
                        if actor.node is None:
                            self._welcome(actor, *said)
                            continue
                        yield from self._heard(said, actor, tell)
                        if said[-1] == END:
                            self._passed |= actor.whole
                            self._end(actor)
                        else:
                            actor.word = actor.handle.said.remote()
            finally:
                for actor in list(self._actors):
                    self._end(actor)
        if self._stopping is None:
            yield from map(Elsewhere, self._left)

    def _check_own_node(self) -> None:
        """Raise `WorkersLost` if the node of this process is dead: without it no actor answers, and none starts."""
        own = self._ray.get_runtime_context().get_node_id()
        if any(node["NodeID"] == own and not node["Alive"] for node in self._ray.nodes()):
            raise WorkersLost("the Ray node of this command has died; run the same command again to continue")

    def _begun(self, share: int, seen: dict[str, str]) -> _Actor:
        environment = {name: os.environ[name] for name in HANDED_ON if name in os.environ}
        environment |= {name: text for name, text in os.environ.items() if name.startswith("LORA_BENCH_")}
        named = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}
        options = {named[name]: much for name, much in self._needs.items()}
        # One call waits for messages, and another asks for a stop.
        handle = self._ray.remote(Worker).options(max_concurrency=2, **options).remote(environment)
        return _Actor(share, handle, handle.hello.remote(__version__, seen))

    def _welcome(self, actor: _Actor, node: str, fault: str | None) -> None:
        """Give an actor that has reported its work: every unit, its own share first."""
        if fault is not None:
            raise WorkersLost(f"the Ray cluster cannot be used: {fault}")
        actor.node, actor.whole = node, True
        count = min(self.workers, len(self._units))
        order = [unit for share in range(count) for unit in self._units[(actor.share + share) % count :: count]]
        units = [left for unit in order if (left := [job for job in unit if job.run_id in self._left])]
        silence = {job.run_id: self._patience(job) for job in self._left.values()}
        actor.word = actor.handle.work.remote(units, self._log.absolute(), silence)

    def _pass_on_a_stop(self) -> None:
        for actor in self._actors:
            if self._stopping is not None and actor.node is not None and not actor.told_to_stop:
                actor.told_to_stop = True
                actor.handle.stop.remote(self._stopping)

    def _heard(self, said: Sequence[Any], actor: _Actor, tell: Callable[[Word], None]) -> Iterator[Record | Lost[Job]]:
        """Pass on an actor's messages; yield the first result of each job."""
        for word in said:
            if isinstance(word, Exception):
                raise WorkersLost(f"no worker can start on the Ray cluster: {word}")
            if isinstance(word, Note):
                tell(word)
            elif isinstance(word, Event):
                # A run that is done or locked elsewhere takes no step here.
                if word.step and word.run_id in self._left:
                    if self._owners.get(word.run_id) is not actor:
                        self._owners[word.run_id] = actor
                        tell(replace(word, step=0, loss=None))
                    tell(word)
            elif isinstance(word, Record | Lost):
                run_id = word.run_id if isinstance(word, Record) else word.job.run_id
                if self._left.pop(run_id, None) is not None:
                    self._lost = 0
                    yield word

    def _replace(self, actor: _Actor, error: Exception, seen: dict[str, str]) -> None:
        """Start another actor for one that was lost."""
        with self._log.open("a", encoding="utf-8") as log:
            log.write(f"an actor of the Ray cluster was lost: {error}\n")
        self._lost += 1
        if self._lost >= MOST_LOSSES * min(self.workers, len(self._units)):
            raise WorkersLost(f"no worker can stay on the Ray cluster; see {self._log}")
        self._end(actor)
        self._passed = False
        for other in self._actors:
            other.whole = False
        if self._stopping is None:
            self._actors.append(self._begun(actor.share, seen))

    def _end(self, actor: _Actor) -> None:
        self._actors.remove(actor)
        self._ray.kill(actor.handle)


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
