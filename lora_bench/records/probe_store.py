"""The records of probes: `probes/<probe_id>-<repeat>.json` beside the runs of their suite, or in a baseline."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lora_bench.errors import BadInput, Fault
from lora_bench.records.probe_record import SCHEMA, ProbeRecord
from lora_bench.records.store import DamagedRecord, MissingRecord, read_sealed, sealed, to_json
from lora_bench.util.atomic_files import (
    QUARANTINE,
    make_folder,
    quarantine,
    remove_orphans,
    sync_folder,
    write_atomic,
    write_once,
)

PROBES = "probes"


@dataclass(frozen=True)
class ProbeFolder:
    """The probes of a suite."""

    path: Path

    def record(self, run_id: str) -> ProbeRecord | None:
        """Return the record of one process, or None if it is missing or damaged and must be measured."""
        file = self.path / f"{run_id}.json"
        try:
            return read_probe(file) if file.is_file() else None
        except (DamagedRecord, MissingRecord):
            return None

    def publish(self, record: ProbeRecord) -> ProbeRecord:
        """Write the record unless one exists. Return the record that is in place afterwards."""
        file = self.path / f"{record.run_id}.json"
        remove_orphans(self.path)
        while not write_once(file, sealed(record)):
            try:
                return read_probe(file)
            except DamagedRecord as error:
                quarantine(file, str(error), self.path / QUARANTINE)
            except MissingRecord:
                continue  # another process put it aside
        return record

    def retry(self, run_id: str) -> None:
        """Move a record to `attempts/`, so that its process is run again."""
        file, aside = self.path / f"{run_id}.json", self.path / "attempts"
        if file.is_file():
            make_folder(aside)
            file.rename(aside / f"{run_id}.{len(list(aside.glob(f'{run_id}.*.json'))) + 1}.json")
            for changed in (aside, self.path):
                sync_folder(changed)


def probe_files(folder: Path) -> list[Path]:
    """Return the files of probe records in a runs folder or a baseline."""
    return sorted((folder / PROBES).glob("*.json"))


def read_probes(folder: Path) -> list[ProbeRecord]:
    """Read every probe record of a runs folder or a baseline, in the order of their names.

    Raises:
        BadInput: With every record that cannot be read.
    """
    records: list[ProbeRecord] = []
    faults: list[Fault] = []
    for file in probe_files(folder):
        try:
            records.append(read_probe(file))
        except BadInput as error:
            faults += error.faults
    if faults:
        raise BadInput(faults)
    return records


def accept_probes(runs: Path, baseline: Path) -> list[ProbeRecord]:
    """Copy the probe records of a runs folder into a baseline, replacing those in it."""
    records = read_probes(runs)
    for record in records:
        write_atomic(baseline / PROBES / f"{record.run_id}.json", to_json(record))
    kept = {f"{record.run_id}.json" for record in records}
    for path in probe_files(baseline):
        if path.name not in kept:
            path.unlink()
    return records


def read_probe(file: Path) -> ProbeRecord:
    """Read one probe record.

    Raises:
        BadInput: If it is unreadable or from a newer lora_bench; `DamagedRecord` if it is damaged.
    """
    return read_sealed(file, ProbeRecord, SCHEMA, "probe record")
