"""Heartbeat of the run in this process, by which its parent tells slow work from a hang.

Steps are reported one by one; work without steps (loading, evaluating) beats here between its parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

_listeners: list[Callable[[], None]] = []


def beat() -> None:
    """Report progress of the run."""
    for listener in _listeners:
        listener()


@contextmanager
def heard(listener: Callable[[], None]) -> Iterator[None]:
    """Call *listener* at each beat in this block; an exception it raises ends the work that beats."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)
