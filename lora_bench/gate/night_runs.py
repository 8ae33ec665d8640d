"""The runs of an accepted night, to hold other runs against: a night keeps scores, margins and counts, and no records."""

from __future__ import annotations

from collections.abc import Sequence

from lora_bench.errors import LoraBenchError
from lora_bench.gate.series import Night
from lora_bench.records.analysis import Analysis
from lora_bench.records.record import Record
from lora_bench.report.model.seed_scores import no_answers
from lora_bench.report.sections.compare_runs import RunSet


def runs_of_night(night: Night, name: str, now: Sequence[Record]) -> RunSet:
    """Return the night's runs as records, with its scores and margins.

    A run's id is the hash of its spec, so the record of the same id in *now* has the rest. Runs that *now* lacks or that ended
    otherwise are left out here; the night itself has them. So are scores that new seeds did not confirm.

    Raises:
        LoraBenchError: If no run is in both.
    """
    sound = [cell for series, cell in night.by_series().items() if series not in night.flaky]
    scores = {run.run_id: run.score for cell in sound for run in cell.runs}
    margins = {cell.name.task: cell.margin for cell in night.cells if cell.name.task and cell.margin}
    rules = Analysis(reference=name, margin=margins)
    records = [
        record.model_copy(update={"scores": {metric: score}, "analysis": rules})
        for record in now
        if (score := scores.get(record.run_id)) is not None
        and record.status == "ok"
        and (metric := record.spec.task.metric)
    ]
    if not records:
        raise LoraBenchError(
            f"no run is in both: {night.label} of {name} is a night of the suite {night.suite}, "
            "and other settings, data or seeds are other runs"
        )
    return RunSet(name, records, no_answers)
