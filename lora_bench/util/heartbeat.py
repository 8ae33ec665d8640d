"""Heartbeat of the run in this process, by which its parent tells work without steps, such as loading, from a hang."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# Seconds between two heartbeats that are passed on.
INTERVAL_SECONDS = 1.0

_listeners: list[Callable[[], None]] = []


def beat() -> None:
    """Report progress of the run."""
    for listener in _listeners:
        listener()


def at_intervals(listener: Callable[[], None], last: float = -math.inf) -> Callable[[], None]:
    """Return a function that calls *listener*, at most once a second; *last* is the time of an earlier call."""

    def pass_on() -> None:
        nonlocal last
        if time.monotonic() - last >= INTERVAL_SECONDS:
            last = time.monotonic()
            listener()

    return pass_on


@contextmanager
def heard(listener: Callable[[], None]) -> Iterator[None]:
    """Call *listener* at each beat in this block; an exception it raises ends the work that beats."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)
