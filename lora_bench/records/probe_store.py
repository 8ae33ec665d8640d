"""The records of probes: `probes/<probe_id>-<repeat>.json` beside the runs of their suite, or `probes.json` of a baseline."""

from dataclasses import dataclass
from pathlib import Path

from lora_bench.errors import LoraBenchError
from lora_bench.records.layout import PROBES_FILE
from lora_bench.records.probe_record import SCHEMA, ProbeRecord
from lora_bench.records.sealed_records import DamagedRecord, MissingRecord, read_each, read_many, read_sealed, sealed
from lora_bench.util.atomic_files import QUARANTINE, make_folder, quarantine, remove_orphans, sync_folder, write_once

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
    """Return the files of probe records in a runs folder."""
    return sorted((folder / PROBES).glob("*.json"))


def has_probes(folder: Path) -> bool:
    """Return True if a runs folder or a baseline has records of probes."""
    return (folder / PROBES_FILE).is_file() or bool(probe_files(folder))


def read_probes(folder: Path) -> list[ProbeRecord]:
    """Read a folder's probe records, by cell and repeat. Raise BadInput for damage, LoraBenchError if it has both forms."""
    files = probe_files(folder)
    if (folder / PROBES_FILE).is_file():
        if files:
            raise LoraBenchError(f"{folder} has both {PROBES_FILE} and {PROBES}/; move one of them elsewhere")
        return read_many(folder / PROBES_FILE, ProbeRecord, SCHEMA, "probe record")
    return sorted(read_each(files, read_probe), key=lambda record: (record.probe_id, record.repeat, record.twin))


def read_probe(file: Path) -> ProbeRecord:
    """Read one probe record. Raise BadInput as `read_sealed` does."""
    return read_sealed(file, ProbeRecord, SCHEMA, "probe record")
