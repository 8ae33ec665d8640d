"""What the user can put right, and how it is said.

Everything here is printed by the command line without a traceback. A message says what was given, what was expected
and the nearest valid choice; faults of a file carry its name, line and key, and all of them come at once.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

SHOWN_CHARACTERS = 200


class LoraBenchError(Exception):
    """A mistake that the user can put right."""


class UnsupportedPair(LoraBenchError):
    """A method cannot adapt this base model, with the reason."""


class BudgetUnreachable(LoraBenchError):
    """No size of a method meets the budget, with the nearest count."""


class AssetUnavailable(LoraBenchError):
    """A named file is neither in the cache nor to be had, with the way to get it."""


class WorkersLost(LoraBenchError):
    """The server that forks workers died, or its workers cannot start."""


class WorkBroken(LoraBenchError):
    """A file or the system failed in the middle of the work, which the same command goes on with."""


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong in a file.

    Args:
        message: What was given and what was expected.
        file: The file as the user named it.
        line: Line in the file, counted from 1, or None where there is no line.
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
    """Everything that is wrong with what the user gave, found before any work."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = list(faults)
        super().__init__("\n".join(str(fault) for fault in self.faults))


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint with the nearest known name, or an empty string where none is near."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def unknown(kind: str, name: str, known: Iterable[str]) -> LoraBenchError:
    """The error for a name that nothing answers to, with the nearest one that does."""
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
