"""Costs of a row beside its own runs: the trials that chose its learning rate, and the files that must be kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lora_bench.records.probe_record import ProbeRecord
from lora_bench.report.model.comparison import Comparison, ModelTable, Setting
from lora_bench.report.model.rows import Row, median_of


@dataclass(frozen=True, kw_only=True)
class Beside:
    """Costs beside the rows of a comparison.

    Args:
        tuning_seconds: Seconds of training in all trials, by the key that a row and its trials share.
        probes: Probes of the same report.
    """

    tuning_seconds: dict[tuple[object, ...], float]
    probes: Sequence[ProbeRecord]

    def tuning(self, row: Row, table: ModelTable, setting: Setting) -> float | None:
        """Seconds of training of the trials that chose a row's learning rate; None if the report has no such trials."""
        return self.tuning_seconds.get(_key(row, table, setting))

    def checkpoint_bytes(self, row: Row, table: ModelTable, setting: Setting) -> float | None:
        """Bytes of the files that must be kept: those that the runs left, else those of a probe of the same method."""
        if row.checkpoint_bytes is not None:
            return row.checkpoint_bytes
        labels = len(setting.spec.task.labels or ()) or None
        return median_of(
            probe.checkpoint.stored_bytes
            for probe in self.probes
            if probe.checkpoint is not None
            and probe.spec.model.sha256 == table.model.sha256 is not None
            and (probe.spec.method.name, probe.spec.method.options) == (row.method, row.options)
            and labels in (None, probe.spec.labels)
        )


def beside(comparison: Comparison, probes: Sequence[ProbeRecord] = ()) -> Beside:
    """Collect the costs beside the rows of *comparison*; *probes* are of the same report."""
    seconds: dict[tuple[object, ...], list[float]] = {}
    for setting in comparison.settings:
        if not setting.trials:
            continue
        for table in setting.tables:
            for row in table.rows:
                if row.train_seconds_total is not None:
                    seconds.setdefault(_key(row, table, setting), []).append(row.train_seconds_total)
    return Beside(tuning_seconds={key: math.fsum(found) for key, found in seconds.items()}, probes=probes)


def _key(row: Row, table: ModelTable, setting: Setting) -> tuple[object, ...]:
    target, rows = setting.parameter_target, setting.distinct_examples
    return setting.spec.task.name, target, rows, table.model.shown, table.weights, row.label
