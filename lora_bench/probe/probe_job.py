"""A probe's job: a probe spec with one machine's facts about it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_bench.models.registry import BaseModel
from lora_bench.records.environment import CudaDevice
from lora_bench.records.probe_record import ProbeRecord, ProbeSpec, probe_run_id
from lora_bench.records.probe_store import ProbeFolder
from lora_bench.records.record import Status


@dataclass(frozen=True)
class ProbeJob:
    """One process of a probe: the one number *repeat* of its cell, or of the *twin* that is measured a second time unchanged.

    *folder* has the suite's probe records. *card* is the CUDA device, None for the CPU, and *idle_bytes* its memory used before
    any work, None if its driver does not tell.
    """

    spec: ProbeSpec
    suite: str
    base_model: BaseModel
    repeat: int
    twin: bool
    folder: Path
    command: str
    card: CudaDevice | None = None
    idle_bytes: int | None = None

    @property
    def run_id(self) -> str:
        """Unique name of this process."""
        return probe_run_id(self.spec.probe_id, self.repeat, self.twin)

    @property
    def steps(self) -> int:
        """Return 1: progress shows a probe as one step."""
        return 1

    def published(self) -> ProbeRecord | None:
        """Return the existing record, or None."""
        return ProbeFolder(self.folder).record(self.run_id)

    def publish(self, record: ProbeRecord) -> ProbeRecord:
        """Write the record unless one exists. Return the record in place afterwards."""
        return ProbeFolder(self.folder).publish(record)

    def record(self, status: Status, reason: str | None = None, **found: Any) -> ProbeRecord:
        """Return the record of this job, with *found* as its other fields; any status but `ok` has a reason."""
        return ProbeRecord(
            probe_id=self.spec.probe_id,
            repeat=self.repeat,
            twin=self.twin,
            suite=self.suite,
            status=status,
            reason=reason,
            spec=self.spec,
            command=self.command,
            **found,
        )
