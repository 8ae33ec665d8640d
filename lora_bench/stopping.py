"""How work is asked to stop: the first SIGINT or SIGTERM asks, the second insists."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def stopping_on_signals(stop: Callable[[str], None]) -> Iterator[list[str]]:
    """Within this block, the first SIGINT or SIGTERM asks the work to stop; its name is put into the list yielded."""
    stopped: list[str] = []
    if threading.current_thread() is not threading.main_thread():
        yield stopped  # only the main thread may handle signals; elsewhere whoever calls decides
        return

    def ask(number: int, frame: object) -> None:
        if stopped:
            raise KeyboardInterrupt  # asked twice: at once
        stopped.append(signal.Signals(number).name)
        stop(stopped[0])

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
