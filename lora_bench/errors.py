"""Errors that the user can fix, and their messages.

The command line prints them without a traceback. A message says what was given, what was expected, and the nearest valid
choice. Faults of a file carry its name, line and key, and are reported all at once.
"""

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

SHOWN_CHARACTERS = 200


class LoraBenchError(Exception):
    """A mistake that the user can fix."""


class UnsupportedPair(LoraBenchError):
    """A method that cannot adapt this base model, with the reason."""


class BudgetUnreachable(LoraBenchError):
    """A budget that no size of a method meets, with the nearest count."""


class AssetUnavailable(LoraBenchError):
    """A named file that is neither cached nor available, with the way to get it."""


class Diverged(LoraBenchError):
    """The loss or the outputs of a run are no longer finite."""


class WorkersLost(LoraBenchError):
    """A dead server of worker processes, or workers that cannot start."""


class WorkBroken(LoraBenchError):
    """A failure of a file or the system during the work; the same command resumes it."""


@dataclass(frozen=True)
class Fault:
    """One fault of a file.

    Args:
        message: What was given and what was expected.
        file: The file as the user named it.
        line: Line in the file, counted from 1; None if there is none.
        key: Dotted path of the key, such as ``budget.tolerance``.
    """

    message: str
    file: str | None = None
    line: int | None = None
    key: str | None = None

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.file, self.line) if part is not None)
        return ": ".join(part for part in (place, self.key, self.message) if part)


class BadInput(LoraBenchError):
    """All faults of the user's input, found before any work."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = list(faults)
        super().__init__("\n".join(str(fault) for fault in self.faults))


def refuse(faults: Iterable[Fault]) -> None:
    """Raise BadInput with all faults, if there are any."""
    if found := list(faults):
        raise BadInput(found)


@contextmanager
def collecting(faults: list[Fault]) -> Iterator[None]:
    """Add the faults of a BadInput that this block raises to *faults*, to be reported with those of what follows."""
    try:
        yield
    except BadInput as error:
        faults += error.faults


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a hint with the nearest known name, or an empty string if none is near."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def unknown(kind: str, name: str, known: Iterable[str]) -> LoraBenchError:
    """Return the error for an unknown name, with the nearest known one."""
    names = sorted(known)
    name = name if len(name) <= SHOWN_CHARACTERS else f"{name[:SHOWN_CHARACTERS]}…"
    return LoraBenchError(f"unknown {kind} {name!r}{did_you_mean(name, names)} (known: {', '.join(names)})")


def first_line(error: BaseException, empty: str | None = None) -> str:
    """Return the first line of an error's message; without a message *empty*, by default the name of its type."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__ if empty is None else empty)


def typed_line(error: BaseException) -> str:
    """Return the type of an error with the first line of its message, such as "KeyError: 'rank'"."""
    line = first_line(error, "")
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and its causes, in order."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
