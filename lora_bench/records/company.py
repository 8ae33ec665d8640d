"""Whether other processes of this machine are at runs of a suite: then nobody has the machine to itself.

They are read off the claims in the folders of its runs. Runs of another suite, in another runs folder, or of another container
on this machine are not seen, nor is a harness that is between two runs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from pathlib import Path

from lora_bench.records.store import RECORD
from lora_bench.util.process_identity import Process, is_alive


def others_at_work(folder: Path) -> list[int]:
    """The numbers of the processes, other than this one, that are at runs on this machine, in order.

    Args:
        folder: Of a suite's runs, `RUNS/SUITE` or `RUNS/SUITE/SERIES`.
    """
    found = set[int]()
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        for entry in entries:
            # Nobody is at a run that is done, and a suite may have thousands: their claims are not read again and again.
            # A record that is to be made again is moved away first.
            if not Path(entry.path, RECORD).exists():
                found |= _others_in(Path(entry.path))
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
