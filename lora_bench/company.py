"""Whether other processes of this machine are at runs of a suite: then nobody has the machine to itself.

They are read off the claims in the folders of its runs. Runs of another suite, in another runs folder, or of another container
on this machine are not seen, nor is a harness that is between two runs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import time
from pathlib import Path

from lora_bench.processes import Process, is_alive

# How coarse the times of a file system may be: what changed a moment ago may change again unseen.
_SETTLED_SECONDS = 2.0

# By the folder of a suite and the name of a run: when the run's folder last changed, where nobody else was at it then. Whoever
# takes a run puts a new file into its folder, so one that is unchanged is not looked into again: a suite may have thousands.
_quiet: dict[Path, dict[str, int]] = {}


def others_at_work(folder: Path) -> list[int]:
    """The numbers of the processes, other than this one, that are at runs on this machine, in order.

    Args:
        folder: Of a suite's runs, `RUNS/SUITE` or `RUNS/SUITE/SERIES`.
    """
    quiet, found = _quiet.setdefault(folder, {}), set[int]()
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):  # it went away meanwhile, or is a link to itself
                changed_ns = entry.stat().st_mtime_ns
                if not entry.is_dir() or quiet.get(entry.name) == changed_ns:
                    continue
                others = _others_in(Path(entry.path))
                found |= others
                if not others and time.time() - changed_ns / 1e9 > _SETTLED_SECONDS:
                    quiet[entry.name] = changed_ns
    return sorted(found)


def _others_in(folder: Path) -> set[int]:
    """The numbers of the other processes that are at one run."""
    owners = [owner for path in folder.glob("claim-*.json") if (owner := _owner(path)) is not None]
    return {owner.pid for owner in owners if owner.pid != os.getpid() and is_alive(owner)}


def _owner(path: Path) -> Process | None:
    """Whose a claim is; None for one that was given back, or is gone or half written."""
    try:
        data = json.loads(path.read_bytes())
        return Process(**{field.name: data[field.name] for field in dataclasses.fields(Process)})
    except (OSError, ValueError, LookupError, TypeError):
        return None
