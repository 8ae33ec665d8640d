"""The actor of a Ray cluster: one thread does the work, and the actor's own thread answers for it.

Nothing heavy is imported before `hello`, which also tells that the actor has a place.
"""

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_bench.execute.executors.executor import Alive
from lora_bench.training.job import Event, Job
from lora_bench.version import __version__

# Time that an answer waits for a message worth sending.
TELL_SECONDS = 0.5
# Time until a file written on another machine is visible.
SEEN_SECONDS = 10.0


@dataclass(frozen=True)
class Said:
    """Messages since the last answer, in order; after the end of the unit, the name of the exception that ended it, if any."""

    words: tuple[Any, ...]
    ended: bool
    failure: str | None


class Worker:
    """An actor, with these environment variables."""

    def __init__(self, environment: dict[str, str]) -> None:
        os.environ.update(environment)
        self._words: deque[Any] = deque()
        self._worth_telling = threading.Event()
        self._ended = True
        self._failure: str | None = None

    def hello(self, version: str, seen: Mapping[str, str]) -> tuple[str, str | None]:
        """Return the id of the node, and the node's fault, if any.

        *version* is the command's. It sees the files and folders in *seen*, each with the folder to name if this node does not.
        """
        import ray

        import lora_bench.training.run  # noqa: F401

        return ray.get_runtime_context().get_node_id(), _fault(version, seen)

    def take(self, unit: Sequence[Job]) -> Said:
        """Begin the runs of a unit."""
        self._ended, self._failure = False, None
        self._worth_telling.clear()
        threading.Thread(target=self._work, args=(unit,), name="unit of work", daemon=True).start()
        return self.said()

    def said(self) -> Said:
        """Return the messages; wait a moment for a record or the end of the unit."""
        self._worth_telling.wait(TELL_SECONDS)
        self._worth_telling.clear()
        # Read before the messages: none follows the end.
        ended = self._ended
        words = [self._words.popleft() for _ in range(len(self._words))]
        return Said(tuple(words), ended, self._failure if ended else None)

    def send(self, word: Any) -> None:
        """Add a message from the work."""
        self._words.append(word)
        if not isinstance(word, Event | Alive):
            self._worth_telling.set()

    def stop(self, name: str) -> None:
        """Ask the runs to write checkpoints and end."""
        from lora_bench.training.callbacks import request_stop

        request_stop(name)

    def _work(self, unit: Sequence[Job]) -> None:
        from lora_bench.execute.executors.fork_server import do_unit

        try:
            do_unit(list(unit), self)
        except BaseException as error:
            import traceback

            from lora_bench.util.redaction import without_secrets

            print(without_secrets(traceback.format_exc()), end="", file=sys.stderr, flush=True)
            self._failure = type(error).__name__
        finally:
            self._ended = True
            self._worth_telling.set()


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
            time.sleep(TELL_SECONDS)
    return None
