"""Stop work on signals: the first SIGINT or SIGTERM asks it to stop, the second forces it."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# Exit codes as shells give them: 128 and the signal's number.
CODES = {"SIGINT": 130, "SIGTERM": 143}


class Stopped(KeyboardInterrupt):
    """SIGINT or SIGTERM arrived, and no work must be finished first."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


@contextmanager
def ending_on_signals() -> Iterator[None]:
    """In this block the first SIGINT or SIGTERM raises `Stopped`; another one ends the process at once."""

    def end(name: str, before: list[str]) -> None:
        raise Stopped(name)

    with _answering(end):
        yield


@contextmanager
def stopping_on_signals(stop: Callable[[str], None]) -> Iterator[list[str]]:
    """Yield the signals that came. The first SIGINT or SIGTERM calls *stop*, the second raises `Stopped`, a third kills."""

    def ask(name: str, before: list[str]) -> None:
        if len(before) > 1:
            raise Stopped(name)
        stop(name)

    with _answering(ask) as stopped:
        yield stopped


@contextmanager
def _answering(answer: Callable[[str, list[str]], None]) -> Iterator[list[str]]:
    """Call *answer* with each SIGINT or SIGTERM and the yielded list of those; once it raised, the next ends the process."""
    came: list[str] = []
    if threading.current_thread() is not threading.main_thread():
        yield came  # only the main thread may handle signals; elsewhere the caller decides
        return
    raised = False

    def hear(number: int, frame: object) -> None:
        nonlocal raised
        name = signal.Signals(number).name
        came.append(name)
        if raised:
            os._exit(CODES[name])
        try:
            answer(name, came)
        except Stopped:
            raised = True
            raise

    before = {number: signal.signal(number, hear) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class BeforeTermination:
    """Run a function with the signal's name when SIGTERM is about to end the process, unless another handler takes it."""

    def __init__(self, do: Callable[[str], None]) -> None:
        self._do = do
        self._watching = False

    def watch(self) -> None:
        """Start to watch for SIGTERM."""
        in_main = threading.current_thread() is threading.main_thread()
        if in_main and not self._watching and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, self._terminated)
            self._watching = True

    def leave(self) -> None:
        """Stop watching."""
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
