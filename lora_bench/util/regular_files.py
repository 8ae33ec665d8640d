"""Read regular files only, up to a limit of size.

A folder may come from a stranger. A pipe in it would block the reader for ever, and a link to a device would fill the memory.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from pathlib import Path

MIB = 2**20


def read_regular(path: Path, limit_bytes: int | None = None) -> bytes:
    """Return the content of a regular file of at most *limit_bytes*, or of the one that a link leads to.

    Raises:
        OSError: If it cannot be read, is a pipe, a device or a folder, or is larger.
    """
    with io.BufferedReader(io.FileIO(path, "rb", opener=_without_waiting)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        content = file.read(-1 if limit_bytes is None else limit_bytes + 1)
    if limit_bytes is not None and len(content) > limit_bytes:
        raise OSError(errno.EFBIG, f"larger than {limit_bytes / MIB:,.0f} MiB", str(path))
    return content


def _without_waiting(path: str, flags: int) -> int:
    """Open a file; never wait for the writer of a pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
