"""A probe's job: a probe spec with what one machine knows about it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_bench.models.registry import BaseModel
from lora_bench.records.probe_record import ProbeRecord, ProbeSpec, probe_run_id
from lora_bench.records.probe_store import ProbeFolder
from lora_bench.records.record import Status


@dataclass(frozen=True)
class ProbeJob:
    """One process of a probe.

    Args:
        spec: What to measure.
        suite: Name of the suite, for the record.
        base_model: The base model on this machine.
        repeat: Number of the process among those of its cell.
        twin: Whether the cell is the one that is measured a second time unchanged.
        folder: Where the records of the suite's probes lie.
        command: What makes the record again.
        idle_bytes: Used on the device before any work, or None where its driver does not tell.
    """

    spec: ProbeSpec
    suite: str
    base_model: BaseModel
    repeat: int
    twin: bool
    folder: Path
    command: str
    idle_bytes: int | None = None

    @property
    def run_id(self) -> str:
        """The name of this process among all."""
        return probe_run_id(self.spec.probe_id, self.repeat, self.twin)

    @property
    def steps(self) -> int:
        """A probe is shown as one step."""
        return 1

    def published(self) -> ProbeRecord | None:
        """The record that is there already, or None."""
        return ProbeFolder(self.folder).record(self.run_id)

    def publish(self, record: ProbeRecord) -> ProbeRecord:
        """Write the record unless there is one; the record that stands there afterwards."""
        return ProbeFolder(self.folder).publish(record)

    def record(self, status: Status, reason: str | None = None, **found: Any) -> ProbeRecord:
        """The record of this job.

        Args:
            status: How it ended.
            reason: Why, for any status but `ok`.
            found: What was measured: the other fields of a record.
        """
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
