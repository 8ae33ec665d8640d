"""Where named things lie: tasks and baselines by name, and the folder for what was obtained or computed once.

`./tasks` and `./baselines` of the working folder are looked in first and are the only ones written; then what came with
the package. `LORA_BENCH_CACHE` moves the cache folder.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import platformdirs

PACKAGE = Path(__file__).parents[1]

Kind = Literal["tasks", "baselines"]


def folders(kind: Kind) -> list[Path]:
    """The folders that hold named tasks or baselines, the first one winning."""
    # An installed package carries them inside; a checkout has them beside it.
    shipped = PACKAGE / f"_{kind}"
    candidates = [Path.cwd() / kind, shipped if shipped.is_dir() else PACKAGE.parent / kind]
    return [folder for index, folder in enumerate(candidates) if folder.is_dir() and folder not in candidates[:index]]


def task_files() -> dict[str, Path]:
    """Every task that can be named, with its file."""
    return {path.stem: path for folder in reversed(folders("tasks")) for path in sorted(folder.glob("*.yaml"))}


def suite_files() -> dict[str, Path]:
    """Every suite that can be named, with its file."""
    found = {}
    for folder in reversed(folders("baselines")):
        found.update({path.parent.name: path for path in sorted(folder.glob("*/suite.yaml"))})
    return found


def cache_folder(*parts: str) -> Path:
    """A folder in the user's cache, made if it is not there."""
    root = os.environ.get("LORA_BENCH_CACHE") or platformdirs.user_cache_dir("lora_bench")
    folder = Path(root, *parts)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
