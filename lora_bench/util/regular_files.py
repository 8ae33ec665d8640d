"""The door for files of strangers: regular files only, up to a limit of size, JSON of the expected shape, complete weights.

A pipe would block the reader for ever, a link to a device would fill the memory, and a pattern may never end.
`tests/security/test_one_door.py` finds every other reading of a file in the package.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import itertools
import json
import math
import os
import re
import signal
import stat
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from re import _parser  # type: ignore[attr-defined]  # the tree of a pattern
from typing import Any, NamedTuple

from lora_bench.errors import SHOWN_CHARACTERS, LoraBenchError, first_line

MIB = 2**20

# Paths of modules are hardly longer; a pattern with more ways to match one would take seconds a module.
_LONGEST_PATH, _MOST_WAYS = 64, 2e6
_ITERATIONS, _MOST_ITERATIONS = re.compile(r".*_niter_(\d+)"), 1_000
_SHOWN_DIGITS = 20


class TensorHeader(NamedTuple):
    """A tensor in a file of safetensors: its type, such as `F32`, and its shape."""

    dtype: str
    shape: tuple[int, ...]


def read_regular(path: Path, limit_bytes: int | None = None) -> bytes:
    """Return the content of a regular file of at most *limit_bytes*, or of the one that a link leads to.

    Raises:
        OSError: If it cannot be read, is a pipe, a device or a folder, or is larger.
    """
    with _regular(path) as file:
        content = file.read(-1 if limit_bytes is None else limit_bytes + 1)
    if limit_bytes is not None and len(content) > limit_bytes:
        raise OSError(errno.EFBIG, f"larger than {limit_bytes / MIB:,.0f} MiB", str(path))
    return content


def read_start(path: Path, size_bytes: int) -> bytes:
    """Return the first bytes of a regular file.

    Raises:
        OSError: If it cannot be read, or is a pipe, a device or a folder.
    """
    with _regular(path) as file:
        return file.read(size_bytes)


def sha256_of(path: Path) -> str:
    """Return the hash of a regular file.

    Raises:
        OSError: If it cannot be read, or is a pipe, a device or a folder.
    """
    with _regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_object(path: Path, what: str, limit_bytes: int = 16 * MIB) -> dict[str, Any]:
    """Return the JSON object in a file; *what* names the file in errors.

    Raises:
        LoraBenchError: If it cannot be read, is no JSON object, or has a number or character that no JSON file can have.
    """
    try:
        found = load_json(read_regular(path, limit_bytes))
        json.dumps(found, ensure_ascii=False).encode("utf-8")  # refuses half characters
    except RecursionError:
        raise LoraBenchError(f"{what} cannot be read: it is nested too deeply") from None
    except (OSError, ValueError) as error:
        raise LoraBenchError(f"{what} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if not isinstance(found, dict):
        raise LoraBenchError(f"{what} must be an object, got {type(found).__name__}")
    return found


def load_json(raw: bytes) -> Any:
    """Return the data of a JSON file that other people may have written.

    Raises:
        ValueError: If it is no JSON, or has a number that is infinite as a float: sums and means take no such number.
        RecursionError: If it is nested too deeply.
    """
    return json.loads(raw, parse_constant=_refuse, parse_int=_integer, parse_float=_float)


def tensor_headers(path: Path, what: str) -> dict[str, TensorHeader]:
    """Return the tensors of a file of safetensors by name; only its header is read, and compared with its size.

    Raises:
        LoraBenchError: If it is no complete file of safetensors.
    """
    from safetensors import SafetensorError, safe_open

    try:
        _regular(path).close()
        with safe_open(path, framework="np") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  # no mapping
            return {name: TensorHeader(one.get_dtype(), tuple(one.get_shape())) for name, one in slices.items()}
    except (SafetensorError, OSError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise LoraBenchError(f"{what} is not a complete safetensors file: {reason}") from None


def check_regular(folder: Path, what: str) -> None:
    """Refuse a folder with a pipe or a device, which a library would wait for or read without end.

    Raises:
        LoraBenchError: With the name of such a file.
    """
    for path in sorted(folder.iterdir()):
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise LoraBenchError(f"{what}: {path.name} is not a regular file")


@contextlib.contextmanager
def processor_seconds(limit: float, fault: str) -> Iterator[None]:
    """End the work of this block, such as a stranger's template, after so many seconds of the processor.

    Only the main thread of a POSIX system can be interrupted; elsewhere nothing is limited.

    Raises:
        LoraBenchError: With *fault*, if it takes longer or more memory than there is.
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
    """Return the text in settings of a stranger that may take for ever, with the reason, or None.

    Every text may be a pattern for paths of modules, or count iterations.
    """
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
    """Return the text of a pattern of characters alone."""
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


def _regular(path: Path) -> io.BufferedReader:
    """Open a regular file; never wait for the writer of a pipe."""
    raw = io.FileIO(path, "rb", opener=_without_waiting)
    if not stat.S_ISREG(os.fstat(raw.fileno()).st_mode):
        raw.close()
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return io.BufferedReader(raw)


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


def _integer(digits: str) -> int:
    _float(digits)
    return int(digits)


def _float(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        shown = digits if len(digits) <= _SHOWN_DIGITS else f"{digits[:_SHOWN_DIGITS]}…"
        raise ValueError(f"{shown} is beyond the greatest number, {sys.float_info.max:.1e}")
    return number
