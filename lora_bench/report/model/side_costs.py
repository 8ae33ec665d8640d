"""Costs of a row beside its own runs: the trials that chose its learning rate, and the files that must be kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lora_bench.records.probe_record import ProbeRecord, ProbeSpec
from lora_bench.report.model.comparison import Comparison, ModelTable, Setting, rows_of
from lora_bench.report.model.rows import Row, grouped, median_of, total_of


@dataclass(frozen=True, kw_only=True)
class Beside:
    """Costs beside the rows of a comparison.

    Args:
        tuning_seconds: Seconds of training in all trials, by the key that a row and its trials share.
        probes: Probes of the same report.
    """

    tuning_seconds: dict[tuple[object, ...], float | None]
    probes: Sequence[ProbeRecord]

    def tuning(self, row: Row, table: ModelTable, setting: Setting) -> float | None:
        """Seconds of training of the trials that chose a row's learning rate; None if the report has no such trials."""
        return self.tuning_seconds.get(_key(setting, table, row))

    def checkpoint_bytes(self, row: Row, table: ModelTable, setting: Setting) -> float | None:
        """Bytes of the files that must be kept: those that the runs left, else those of a probe of the same method."""
        if row.checkpoint_bytes is not None:
            return row.checkpoint_bytes
        labels = len(setting.spec.task.labels or ()) or None
        return median_of(
            probe.checkpoint.stored_bytes
            for probe in self.probes
            if probe.checkpoint is not None
            and is_probed_by(probe.spec, row, table)
            and labels in (None, probe.spec.labels)
        )


def is_probed_by(spec: ProbeSpec, row: Row, table: ModelTable) -> bool:
    """Tell if a probe is of a row's method on the same base model."""
    same_model = spec.model.sha256 == table.model.sha256 is not None
    return same_model and (spec.method.name, spec.method.options) == (row.method, row.options)


def beside(comparison: Comparison, probes: Sequence[ProbeRecord] = ()) -> Beside:
    """Collect the costs beside the rows of *comparison*; *probes* are of the same report."""
    trials = grouped(rows_of(setting for setting in comparison.settings if setting.trials), lambda cell: _key(*cell))
    seconds = {key: total_of(row.train_seconds_total for _, _, row in cells) for key, cells in trials.items()}
    return Beside(tuning_seconds=seconds, probes=probes)


def _key(setting: Setting, table: ModelTable, row: Row) -> tuple[object, ...]:
    target, rows = setting.parameter_target, setting.distinct_examples
    return setting.spec.task.name, target, rows, table.model.shown, table.weights, row.label
