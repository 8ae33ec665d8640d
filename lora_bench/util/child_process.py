"""Commands of child processes that run no file of the folder they start in.

`python -m` puts the working folder first on the import path, where `evaluate.py`, `torch.py` or `pip/` may lie; and a
repository's own configuration may name programs that git runs.
"""

import os
import subprocess
import sys
from pathlib import Path

from lora_bench.util.paths import PACKAGE

# This lora_bench, also if it is found through the working folder; everything else from the safe path.
_RUN_OURS = "import runpy, sys; sys.path.insert(0, sys.argv.pop(1)); import lora_bench; del sys.path[0]; \
runpy.run_module(sys.argv.pop(1), run_name='__main__')"


def python_command(module: str, *arguments: str) -> list[str]:
    """Return the command that runs a module of an installed package in a child process."""
    return [sys.executable, "-P", "-m", module, *arguments]


def our_command(module: str, *arguments: str) -> list[str]:
    """Return the command that runs a module of this lora_bench in a child process."""
    return [sys.executable, "-P", "-c", _RUN_OURS, str(PACKAGE.parent), module, *arguments]


def git_output(folder: Path, *arguments: str) -> bytes | None:
    """Return git's output, or None if it fails; nothing is on that would start programs of the folder's configuration."""
    off = ["-c", "log.showSignature=false", "-c", "core.fsmonitor=false", "-c", "core.quotepath=off"]
    environment = {**os.environ, "GIT_NO_LAZY_FETCH": "1", "GIT_ALLOW_PROTOCOL": "none", "GIT_OPTIONAL_LOCKS": "0"}
    try:
        command = ["git", *off, "-C", str(folder), *arguments]
        done = subprocess.run(command, capture_output=True, check=False, env=environment)
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None
