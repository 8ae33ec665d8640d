"""Where the records of probes lie: `probes/<probe_id>-<repeat>.json` beside the runs of their suite, or in a baseline."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from lora_bench.errors import BadInput, Fault
from lora_bench.probe_record import SCHEMA, ProbeRecord
from lora_bench.store import first_fault, to_json, write_atomic, write_once

PROBES = "probes"


@dataclass(frozen=True)
class ProbeFolder:
    """The probes of a suite."""

    path: Path

    def record(self, run_id: str) -> ProbeRecord | None:
        """The record of one process, or None while there is none."""
        file = self.path / f"{run_id}.json"
        return read_probe(file) if file.is_file() else None

    def publish(self, record: ProbeRecord) -> ProbeRecord:
        """Write the record, unless there is one; the record that stands there afterwards."""
        file = self.path / f"{record.run_id}.json"
        return record if write_once(file, to_json(record)) else read_probe(file)

    def retry(self, run_id: str) -> None:
        """Put a record aside under `attempts/`, so that its process is run again."""
        file, aside = self.path / f"{run_id}.json", self.path / "attempts"
        if file.is_file():
            aside.mkdir(exist_ok=True)
            file.rename(aside / f"{run_id}.{len(list(aside.glob(f'{run_id}.*.json'))) + 1}.json")


def probe_files(folder: Path) -> list[Path]:
    """The probe records of a runs folder or a baseline."""
    return sorted((folder / PROBES).glob("*.json"))


def read_probes(folder: Path) -> list[ProbeRecord]:
    """Every probe record of a runs folder or a baseline, in the order of their names.

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
    """Copy the probe records of a runs folder into a baseline; what it held before is replaced."""
    records = read_probes(runs)
    shutil.rmtree(baseline / PROBES, ignore_errors=True)
    for record in records:
        write_atomic(baseline / PROBES / f"{record.run_id}.json", to_json(record))
    return records


def read_probe(file: Path) -> ProbeRecord:
    """One probe record.

    Raises:
        BadInput: If it cannot be read, or a newer lora_bench wrote it.
    """
    try:
        data = json.loads(file.read_bytes())
        version = data.get("schema") if isinstance(data, dict) else None
        if isinstance(version, int) and version > SCHEMA:
            newer = f"was written with probe schema {version}, and this lora_bench reads up to {SCHEMA}; upgrade it"
            raise BadInput([Fault(newer, file=str(file))])
        return ProbeRecord.model_validate_json(json.dumps(data))
    except (OSError, ValueError) as error:
        raise BadInput([Fault(f"is no probe record: {first_fault(error)}", file=str(file))]) from None
