"""Folders of tasks and baselines, those of the working folder first, and of the cache, which `LORA_BENCH_CACHE` moves."""

import os
from pathlib import Path
from typing import Literal

import platformdirs

PACKAGE = Path(__file__).parents[1]

Kind = Literal["tasks", "baselines"]


def folders(kind: Kind) -> list[Path]:
    """Return the folders that hold named tasks or baselines; the first one wins."""
    # An installed package contains them; in a checkout they are beside it.
    shipped = PACKAGE / f"_{kind}"
    candidates = [Path.cwd() / kind, shipped if shipped.is_dir() else PACKAGE.parent / kind]
    return [folder for index, folder in enumerate(candidates) if folder.is_dir() and folder not in candidates[:index]]


def task_files() -> dict[str, Path]:
    """Return the file of every named task."""
    return {path.stem: path for folder in reversed(folders("tasks")) for path in sorted(folder.glob("*.yaml"))}


def suite_files() -> dict[str, Path]:
    """Return the file of every named suite."""
    found = {}
    for folder in reversed(folders("baselines")):
        found.update({path.parent.name: path for path in sorted(folder.glob("*/suite.yaml"))})
    return found


def cache_folder(*parts: str) -> Path:
    """Return a folder in the user's cache, made if missing."""
    root = os.environ.get("LORA_BENCH_CACHE") or platformdirs.user_cache_dir("lora_bench")
    folder = Path(root, *parts)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
