"""What an actor of a Ray cluster is: a thread is at the work, and the actor's own answers for it.

Nothing heavy is imported before `hello`, which is also what tells that the actor has a place.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_bench.execute.executors.executor import Alive, Event
from lora_bench.version import __version__

if TYPE_CHECKING:
    from lora_bench.training.job import Job

# How long the answer to a question waits for something that is worth telling.
TELL_SECONDS = 0.5
# How long a file that another machine made may take to be seen.
SEEN_SECONDS = 10.0


@dataclass(frozen=True)
class Said:
    """What there is to tell since the last time.

    Args:
        words: Progress, signs of life and records, in their order.
        ended: Whether the unit of work is at its end.
        failure: The name of what ended it, where it did not end by itself.
    """

    words: tuple[Any, ...]
    ended: bool
    failure: str | None


class Worker:
    """An actor.

    Args:
        environment: What is set of the environment.
    """

    def __init__(self, environment: dict[str, str]) -> None:
        os.environ.update(environment)
        self._words: deque[Any] = deque()
        self._worth_telling = threading.Event()
        self._ended = True
        self._failure: str | None = None

    def hello(self, version: str, seen: Mapping[str, str]) -> tuple[str, str | None]:
        """The id of the node, and what is wrong with it, if anything.

        Args:
            version: Of the command's lora_bench.
            seen: Files and folders that the command sees, each with the folder that lacks where it is not seen here.
        """
        import ray

        import lora_bench.training.run  # noqa: F401

        return ray.get_runtime_context().get_node_id(), _fault(version, seen)

    def take(self, unit: Sequence[Job]) -> Said:
        """Begin with the runs of a unit."""
        self._ended, self._failure = False, None
        self._worth_telling.clear()
        threading.Thread(target=self._work, args=(unit,), name="unit of work", daemon=True).start()
        return self.said()

    def said(self) -> Said:
        """What there is to tell; waits a moment for a record or the end of the unit."""
        self._worth_telling.wait(TELL_SECONDS)
        self._worth_telling.clear()
        # Asked first: nothing is said after the end.
        ended = self._ended
        words = [self._words.popleft() for _ in range(len(self._words))]
        return Said(tuple(words), ended, self._failure if ended else None)

    def send(self, word: Any) -> None:
        """Take a word of the work."""
        self._words.append(word)
        if not isinstance(word, Event | Alive):
            self._worth_telling.set()

    def stop(self, name: str) -> None:
        """Ask the runs to leave checkpoints and end."""
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
    """What is wrong with this node, or None."""
    if version != __version__:
        return f"a node has lora_bench {__version__}, and this command is of {version}"
    end = time.monotonic() + SEEN_SECONDS
    for path, folder in seen.items():
        while not Path(path).exists():
            if time.monotonic() > end:
                return (
                    f"a node does not see what is in {folder}: runs, base models and data are to be on a file system that all "
                    "nodes share, under the same path"
                )
            time.sleep(TELL_SECONDS)
    return None
