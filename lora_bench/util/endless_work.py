"""Settings and templates of strangers that may never end: patterns with too many ways to match, and work without a limit."""

import contextlib
import itertools
import re
import signal
import threading
from collections.abc import Iterator
from re import _parser  # type: ignore[attr-defined]  # the tree of a pattern
from typing import Any

from lora_bench.errors import SHOWN_CHARACTERS, LoraBenchError

# Paths of modules are hardly longer; a pattern with more ways to match one would take seconds a module.
_LONGEST_PATH, _MOST_WAYS = 64, 2e6
_ITERATIONS, _MOST_ITERATIONS = re.compile(r".*_niter_(\d+)"), 1_000


@contextlib.contextmanager
def processor_seconds(limit: float, fault: str) -> Iterator[None]:
    """End the work of this block, such as a stranger's template, after so many seconds of the processor.

    Only the main thread of a POSIX system can be interrupted; elsewhere nothing is limited. Raise LoraBenchError with *fault*,
    if it takes longer or more memory than there is.
    """

    def end(*_: object) -> None:
        raise LoraBenchError(f"{fault} takes more than {limit:g} s")

    timed = hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGVTALRM, end) if timed else None
    try:
        if timed:
            signal.setitimer(signal.ITIMER_VIRTUAL, limit)
        yield
    except MemoryError:
        raise LoraBenchError(f"{fault} takes more memory than there is") from None
    finally:
        if timed:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            signal.signal(signal.SIGVTALRM, before)


def slow_part(value: Any) -> str | None:
    """Return the text in a stranger's settings that may take for ever, as a pattern or a count, with the reason; else None."""
    for text in _texts(value):
        shown = repr(text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…")
        number = _ITERATIONS.fullmatch(text)
        if number is not None and (len(number[1]) > 6 or int(number[1]) > _MOST_ITERATIONS):
            return f"{shown}: at most {_MOST_ITERATIONS:,} iterations"
        try:
            slow = _ways(_parser.parse(text)) > _MOST_WAYS
        except re.error:
            slow = False  # it raises where it is used
        except (RecursionError, OverflowError):
            slow = True
        if slow:
            return f"the pattern {shown}, which may take for ever: repeat less"
    return None


def _ways(pattern: Any) -> float:
    """Return a bound on the ways to match a path, which a search may try all: an exponential number for `(a+)+`."""
    ways = 1.0
    for operation, argument in pattern:
        name = str(operation)
        if name == "BRANCH":
            # Words of which none begins another are one way.
            words = sorted(_word(inner) or "" for inner in argument[1])
            apart = not any(later.startswith(word) for word, later in itertools.pairwise(words))
            ways *= 1 if apart else sum(_ways(inner) for inner in argument[1])
        elif name in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
            least, most = (min(int(bound), _LONGEST_PATH) for bound in argument[:2])
            inside = argument[2]
            digits = str(inside) == "[(IN, [(CATEGORY, CATEGORY_DIGIT)])]"  # no path has more than four in a row
            ways *= (min(most, 4) if digits else most) - min(least, 4 if digits else least) + 1
            ways *= min(_ways(inside), _MOST_WAYS * 2) ** min(most, 40)
        elif name in ("SUBPATTERN", "ASSERT", "ASSERT_NOT", "ATOMIC_GROUP"):
            ways *= _ways(argument if name == "ATOMIC_GROUP" else argument[-1])
        elif name == "GROUPREF_EXISTS":
            ways *= sum(_ways(inner) for inner in argument[1:] if inner is not None)
        ways = min(ways, _MOST_WAYS * 2)
    return ways


def _word(pattern: Any) -> str | None:
    alone = all(str(operation) == "LITERAL" for operation, _ in pattern)
    return "".join(chr(argument) for _, argument in pattern) if alone else None


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from (str(key), *_texts(inner))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)
