"""Environments of a search: one package, or one checkout, in front of everything that is installed here.

A virtual environment takes a second to make, since it sees this one's packages through a path file. Pip installs into it only
the searched package and dependencies that need another version. Nothing else differs, and nothing large is installed twice.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lora_bench.util.child_process import python_command
from lora_bench.util.paths import PACKAGE

# Pip's own variables (PIP_INDEX_URL, PIP_FIND_LINKS, PIP_NO_INDEX) set the source of packages.
PATH_FILE = "of_the_environment_that_searches.pth"


@dataclass(frozen=True)
class BisectEnvironment:
    """An interpreter in which a cell can be run, with the environment variables of its processes."""

    python: str
    environment: dict[str, str]


@contextmanager
def installed(folder: Path, requirement: str, log: Path) -> Iterator[BisectEnvironment | None]:
    """Make a virtual environment with *requirement*, or yield None if pip cannot install it; remove it after the block.

    The requirement is `PACKAGE==VERSION` or a folder; *log* receives the output of pip. Remains of a killed search are deleted.
    """
    try:
        python = _made(folder)
        command = python_command("pip", "--python", str(python), "install", "--disable-pip-version-check", requirement)
        with log.open("ab") as file:
            done = subprocess.run(command, env=_variables(), stdout=file, stderr=subprocess.STDOUT, check=False)
        yield BisectEnvironment(str(python), _variables()) if done.returncode == 0 else None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def checked_out(folder: Path, repository: Path, commit: str, log: Path) -> Iterator[Path | None]:
    """Check out a commit beside the repository, or yield None if git cannot; remove it after the block."""
    # Remains of a killed search; git still knows the checkout, hence --force.
    shutil.rmtree(folder, ignore_errors=True)
    git = ["git", "-C", str(repository), "worktree"]
    with log.open("ab") as file:
        done = subprocess.run(
            [*git, "add", "--detach", "--force", str(folder.resolve()), commit],
            stdout=file,
            stderr=subprocess.STDOUT,
            check=False,
        )
    try:
        yield folder if done.returncode == 0 else None
    finally:
        subprocess.run([*git, "remove", "--force", str(folder.resolve())], capture_output=True, check=False)
        shutil.rmtree(folder, ignore_errors=True)


def _made(folder: Path) -> Path:
    """Make a virtual environment that sees this one's packages behind its own; return its interpreter."""
    builder = venv.EnvBuilder(clear=True, with_pip=False, symlinks=os.name != "nt")
    builder.create(folder)
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    site = sysconfig.get_path("purelib", scheme="venv", vars={"base": str(folder), "platbase": str(folder)})
    given = [str(Path(path).absolute()) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    # A user's own packages, and those of the system that this environment sees, are not where its own are.
    seen = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    own = (sysconfig.get_path(name) for name in ("purelib", "platlib"))
    behind = dict.fromkeys([*given, *seen, *own, str(PACKAGE.parent)])
    # `addsitedir` and not the bare path: packages that are installed for editing lie behind path files of their own.
    lines = [f"import site; site.addsitedir({path!r})" for path in behind]
    (Path(site) / PATH_FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return python


def _variables() -> dict[str, str]:
    """Return this process's variables without those that would put other packages before the environment's."""
    without = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    # The working folder may be a checkout of what is searched.
    return {**without, "PYTHONSAFEPATH": "1"}
