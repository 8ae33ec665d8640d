"""Signs of life of the run of this process: whoever waits for it can tell long work from none.

Steps are told one by one; what has none (loading, evaluating) beats here between its parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

_listeners: list[Callable[[], None]] = []


def beat() -> None:
    """Say that the run got on."""
    for listener in _listeners:
        listener()


@contextmanager
def heard(listener: Callable[[], None]) -> Iterator[None]:
    """Within this block *listener* is called at each beat; what it raises ends the work that beats."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)
