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


class BeforeTermination:
    """Has something done when SIGTERM is about to end the process, which then ends as it would have.

    Nothing is touched where the program, or a library it uses, answers to SIGTERM itself.

    Args:
        do: What is to be done; told the signal's name.
    """

    def __init__(self, do: Callable[[str], None]) -> None:
        self._do = do
        self._watching = False

    def watch(self) -> None:
        """From now on."""
        in_main = threading.current_thread() is threading.main_thread()
        if in_main and not self._watching and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, self._terminated)
            self._watching = True

    def leave(self) -> None:
        """No longer."""
        in_main = threading.current_thread() is threading.main_thread()
        if in_main and self._watching and signal.getsignal(signal.SIGTERM) == self._terminated:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self._watching = False

    def _terminated(self, number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        try:
            self._do(signal.Signals(number).name)
        finally:
            signal.raise_signal(number)
