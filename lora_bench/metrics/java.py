"""Whether Java is here to run: METEOR and the tokenizer of ROUGE-L and CIDEr are Java programs."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache


def missing_java() -> str | None:
    """What is wrong with this machine's Java, and what to do; None if it runs."""
    path = shutil.which("java")
    if path is None:
        return "needs Java 8 or newer, and no `java` is on the PATH; install one"
    return None if _runs(path) else f"needs Java 8 or newer, and {path!r} does not run; install one"


@cache
def _runs(path: str) -> bool:
    # macOS has a `java` that only says where to get one, and exits with 1.
    try:
        return subprocess.run([path, "-version"], capture_output=True, timeout=60, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
