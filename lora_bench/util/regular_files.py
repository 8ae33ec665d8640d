"""The door for files of strangers: regular files only, up to a limit of size, JSON of the expected shape, complete weights.

A pipe would block the reader for ever, and a link to a device would fill the memory.
`tests/security/test_one_door.py` finds every other reading of a file in the package.
"""

import errno
import hashlib
import io
import json
import math
import os
import stat
import sys
from pathlib import Path
from typing import Any, NamedTuple

from lora_bench.errors import LoraBenchError, first_line

MIB = 2**20

_SHOWN_DIGITS = 20


class TensorHeader(NamedTuple):
    """A tensor in a file of safetensors: its type, such as `F32`, and its shape."""

    dtype: str
    shape: tuple[int, ...]


def read_regular(path: Path, limit_bytes: int | None = None) -> bytes:
    """Return the content of a file or a link to one. Raise OSError if it is not regular, or larger than *limit_bytes*."""
    with open_regular(path) as file:
        content = file.read(-1 if limit_bytes is None else limit_bytes + 1)
    if limit_bytes is not None and len(content) > limit_bytes:
        raise OSError(errno.EFBIG, f"larger than {limit_bytes / MIB:,.0f} MiB", str(path))
    return content


def read_start(path: Path, size_bytes: int) -> bytes:
    """Return the first bytes of a regular file. Raise OSError as `read_regular` does."""
    with open_regular(path) as file:
        return file.read(size_bytes)


def sha256_of(path: Path) -> str:
    """Return the hash of a regular file. Raise OSError as `read_regular` does."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_object(path: Path, what: str, limit_bytes: int = 16 * MIB) -> dict[str, Any]:
    """Return the JSON object in a file that errors call *what*. Raise LoraBenchError for other content, or infinite numbers."""
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
    """Return a stranger's JSON. Raise ValueError for other text or a number infinite as a float, RecursionError if too deep."""
    return json.loads(raw, parse_constant=_refuse, parse_int=_integer, parse_float=_float)


def tensor_headers(path: Path, what: str) -> dict[str, TensorHeader]:
    """Return the tensors in the header of a safetensors file, by name. Raise LoraBenchError if the file is incomplete."""
    from safetensors import SafetensorError, safe_open

    try:
        open_regular(path).close()
        with safe_open(path, framework="np") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  # no mapping
            return {name: TensorHeader(one.get_dtype(), tuple(one.get_shape())) for name, one in slices.items()}
    except (SafetensorError, OSError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise LoraBenchError(f"{what} is not a complete safetensors file: {reason}") from None


def check_regular(folder: Path, what: str) -> None:
    """Raise LoraBenchError for a folder with a pipe or a device, which a library would read without end."""
    for path in sorted(folder.iterdir()):
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise LoraBenchError(f"{what}: {path.name} is not a regular file")


def open_regular(path: Path) -> io.BufferedReader:
    """Open a regular file; never wait for the writer of a pipe."""
    no_wait = getattr(os, "O_NONBLOCK", 0)
    raw = io.FileIO(path, "rb", opener=lambda name, flags: os.open(name, flags | no_wait))
    if not stat.S_ISREG(os.fstat(raw.fileno()).st_mode):
        raw.close()
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return io.BufferedReader(raw)


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
