"""The actor of a Ray cluster: a thread has a worker process do the work, and the actor's own threads answer for it."""

import os
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lora_bench.execute.executors.local import LocalWorkers
from lora_bench.records.record import Record
from lora_bench.records.run_lock import Elsewhere
from lora_bench.training.job import Job
from lora_bench.version import __version__

# Last message of an actor.
END = "end"

# Time until a file written on another machine is visible.
SEEN_SECONDS, LOOK_SECONDS = 10.0, 0.5


class Worker:
    """An actor, with these environment variables."""

    def __init__(self, environment: dict[str, str]) -> None:
        os.environ.update(environment)
        self._words: queue.SimpleQueue[Any] = queue.SimpleQueue()
        # For the one call that asks for a stop.
        self._pool: queue.SimpleQueue[LocalWorkers[Job, Record | Elsewhere]] = queue.SimpleQueue()

    def hello(self, version: str, seen: Mapping[str, str]) -> tuple[str, str | None]:
        """Return the id of the node, and the node's fault, if any.

        *version* is the command's. It sees the files and folders in *seen*, each with the folder to name if this node does not.
        """
        import ray

        return ray.get_runtime_context().get_node_id(), _fault(version, seen)

    def work(self, units: Sequence[Sequence[Job]], log: Path, silence: Mapping[str, float | None]) -> list[Any]:
        """Begin units of work, and return the first messages; *silence* has the seconds that each run may be silent."""
        pool: LocalWorkers[Job, Record | Elsewhere] = LocalWorkers(1, log, patience=lambda job: silence[job.run_id])
        pool.submit(units)
        self._pool.put(pool)
        threading.Thread(target=self._work, args=(pool,), name="units of work", daemon=True).start()
        return self.said()

    def said(self) -> list[Any]:
        """Return the messages since the last call, once there is one: progress, results, and at last `END` or an exception."""
        words = [self._words.get()]
        while not self._words.empty():
            words.append(self._words.get())
        return words

    def stop(self, name: str) -> None:
        """Ask the runs to write checkpoints and end."""
        self._pool.get().stop(name)

    def _work(self, pool: LocalWorkers[Job, Record | Elsewhere]) -> None:
        try:
            for result in pool.results(self._words.put):
                self._words.put(result)
            self._words.put(END)
        except Exception as error:
            self._words.put(error)


def _fault(version: str, seen: Mapping[str, str]) -> str | None:
    """Return the fault of this node, or None."""
    if version != __version__:
        return f"a node has lora_bench {__version__}, and this command has {version}; install the same version on all nodes"
    end = time.monotonic() + SEEN_SECONDS
    for path, folder in seen.items():
        while not Path(path).exists():
            if time.monotonic() > end:
                return (
                    f"a node does not see the content of {folder}: put runs, base models and data on a file system that all "
                    "nodes share, under the same path"
                )
            time.sleep(LOOK_SECONDS)
    return None
