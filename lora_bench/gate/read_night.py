"""Turn the records of one series label into a night: a cell for every series, with its scores and exact counts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import JsonValue

from lora_bench.errors import LoraBenchError
from lora_bench.gate.series import (
    STEP_SECONDS,
    CellName,
    Conditions,
    Counts,
    Machine,
    Night,
    NightCell,
    NightRun,
    machine_of,
)
from lora_bench.records.analysis import Analysis
from lora_bench.records.probe_record import ProbeRecord
from lora_bench.records.probe_store import has_probes, read_probes
from lora_bench.records.record import Environment, Record
from lora_bench.records.spec import MethodSpec, RunSpec
from lora_bench.records.store import has_records, read_records
from lora_bench.report.text import plain
from lora_bench.util.filenames import file_name
from lora_bench.util.hashing import content_hash

# Steps that are 3 % slower count as slower: smaller changes are a machine's usual variation between nights.
STEP_SECONDS_MARGIN = math.log(1.03)

_UNDECLARED = Analysis(reference="")


@dataclass(frozen=True)
class _NightRow:
    """A record of a run or a probe, as the gate reads it; `conditions` lack the number of runs."""

    name: CellName
    conditions: Conditions
    environment: Environment | None
    run: NightRun
    counts: dict[str, int | None]
    higher_is_better: bool
    scale: Literal["linear", "log"]
    margin: float | None
    declares_margin: bool = True

    @property
    def cell(self) -> str:
        """A key of the name and the conditions."""
        return content_hash([self.name.model_dump(mode="json"), self.conditions.model_dump(mode="json")])


def read_night(folder: Path, label: str | None = None) -> Night:
    """Read the night whose runs and probes are in *folder*.

    Args:
        folder: A runs folder or a baseline.
        label: Label of the night; by default the series label of its records, or the folder's name if they have none.

    Raises:
        LoraBenchError: If there are no records, they are of several suites, or two runs of a series have the same seed.
        BadInput: With every record that cannot be read.
    """
    probes = read_probes(folder) if has_probes(folder) else []
    records = read_records(folder) if has_records(folder) or not probes else []
    # Seeds are drawn from the label: runs of another one are no runs of this night.
    labels = {record.spec.series for record in records}
    if len(labels) > 1:
        raise LoraBenchError(f"{folder} holds runs of {len(labels)} series ({', '.join(sorted(map(str, labels)))})")
    if label is not None and not labels <= {label, None}:
        raise LoraBenchError(f"{folder} holds runs of the series {labels.pop()}, and not of {label}")
    return night_of(records, label or next(iter(labels), None) or folder.resolve().name, probes)


def night_of(records: Sequence[Record], label: str, probes: Sequence[ProbeRecord] = ()) -> Night:
    """Build the night of these records.

    Raises:
        LoraBenchError: If they are of several suites, two runs of one series have the same seed, or *label* is not a valid
            file name.
    """
    everything: list[Record | ProbeRecord] = [*records, *probes]
    try:
        file_name(label)
    except ValueError as error:
        raise LoraBenchError(f"the label of a night is the name of its file: {error}") from None
    suites = sorted({record.suite for record in everything})
    if len(suites) != 1:
        raise LoraBenchError(f"a night is of one suite, and these records are of {', '.join(suites) or 'none'}")
    environments: list[Environment] = []
    for environment in (record.environment for record in everything):
        if environment is not None and environment not in environments:
            environments.append(environment)
    cells = [_cell_of(rows, environments) for rows in _by_series([_row_of_run(record) for record in records])]
    measured = [_row_of_probe(probe) for probe in probes if not probe.twin]
    cells += [_cell_of(rows, environments) for rows in _by_series(measured)]
    return Night(
        suite=suites[0],
        label=label,
        environments=tuple(environments),
        cells=tuple(sorted(cells, key=lambda cell: cell.name.words)),
    )


def name_of(record: Record) -> CellName:
    """Return the name of a record's cell in its suite."""
    spec, budget = record.spec, record.budget
    held = None if budget is None or spec.method.size is None else budget.parameter_target
    rows = spec.training.distinct_examples
    target = [] if held is None else [f"{held[0]}={held[1]}"]
    target += [] if rows is None else [f"distinct_examples={rows}"]
    return CellName(
        task=spec.task.name,
        model=spec.model.name,
        method=spec.method.label,
        target=", ".join(target) or None,
        learning_rate=spec.training.learning_rate if spec.score_on == "selection" else None,
        metric=spec.task.metric or "unknown metric",
    )


def recipe_of(spec: RunSpec) -> str:
    """Hash a run spec without its names, data, base model, size, seed and machine.

    The hash is the run id of the spec without these, so no later version of lora_bench may change it.
    """
    start = None if spec.start is None else spec.start.model_copy(update={"run_id": ""})
    bare = {
        "task": spec.task.model_copy(update={"data_sha256": None}),
        "model": spec.model.model_copy(update={"sha256": None, "revision": None}),
        "method": spec.method.model_copy(update={"chosen": _without_size(spec.method)}),
        "training": spec.training.model_copy(update={"precision": None, "threads": None}),
    }
    named = {"seed": None, "series": None, "keep_weights": None, "start": start, "retention": None}
    return spec.model_copy(update={**bare, **named}).run_id


def _without_size(method: MethodSpec) -> dict[str, JsonValue]:
    return {key: value for key, value in method.chosen.items() if key != method.size}


def _size(method: MethodSpec) -> JsonValue:
    return None if method.size is None else method.options.get(method.size)


def _row_of_run(record: Record) -> _NightRow:
    spec, memory, weights = record.spec, record.memory, record.weights
    conditions = Conditions(
        size=_size(spec.method),
        seeds=0,
        precision=spec.training.precision,
        threads=spec.training.threads,
        data=spec.task.data_sha256,
        base_model=spec.model.sha256,
        recipe=recipe_of(spec),
    )
    counts = {
        **_weights(record),
        "checkpoint_bytes": None if weights is None else weights.stored_bytes,
        "peak_allocated_bytes": memory.train_peak_bytes if memory is not None and memory.kind == "allocated" else None,
    }
    run = NightRun(
        seed=spec.seed,
        run_id=record.run_id,
        status=record.status,
        score=record.judged_score,
        reason=record.reason,
        seconds=None if record.speed is None else round(record.speed.seconds, 3),
        command=record.command,
    )
    higher = spec.task.higher_is_better is not False
    margin = (record.analysis or _UNDECLARED).margin_of(spec.task.name, spec.task.metric)
    declares = record.analysis is not None
    return _NightRow(name_of(record), conditions, record.environment, run, counts, higher, "linear", margin, declares)


def _row_of_probe(probe: ProbeRecord) -> _NightRow:
    spec = probe.spec
    method = spec.method
    name = CellName(
        task=None, model=spec.model.name, method=method.label, target=None, learning_rate=None, metric=STEP_SECONDS
    )
    shapes = spec.model_dump(mode="json", exclude={"model", "method", "precision", "threads"})
    conditions = Conditions(
        size=_size(method),
        seeds=0,
        precision=spec.precision,
        threads=spec.threads,
        data=None,
        base_model=spec.model.sha256,
        recipe=content_hash([shapes, method.name, _without_size(method)])[:16],
    )
    counts = {
        **_weights(probe),
        "checkpoint_bytes": None if probe.checkpoint is None else probe.checkpoint.stored_bytes,
        "step_flops": None if probe.flops is None else probe.flops.step,
        "peak_allocated_bytes": _allocated(probe),
    }
    run = NightRun(
        seed=probe.repeat,
        run_id=probe.run_id,
        status=probe.status,
        score=None if probe.speed is None else probe.speed.step_seconds_median,
        reason=probe.reason,
        command=probe.command,
    )
    return _NightRow(name, conditions, probe.environment, run, counts, False, "log", STEP_SECONDS_MARGIN)


def _weights(record: Record | ProbeRecord) -> dict[str, int | None]:
    return {} if record.parameters is None else record.parameters.model_dump()


def _allocated(probe: ProbeRecord) -> int | None:
    """Return the peak memory of a step: the allocator's on CUDA, elsewhere the counted one."""
    phases = probe.phases
    if phases is not None and phases.kind == "allocated":
        peaks = [peak for peak in (phases.first_step_bytes, phases.steady_bytes) if peak is not None]
        return max(peaks, default=None)
    return None if probe.measured is None else probe.measured.peak_bytes


def _by_series(rows: Iterable[_NightRow]) -> list[list[_NightRow]]:
    """Group rows by series; a run that crashed before its environment was known joins the rest of its cell."""
    found: dict[tuple[str, Machine | None], list[_NightRow]] = {}
    for row in sorted(rows, key=lambda row: row.environment is None):
        if row.environment is not None:
            machine: Machine | None = machine_of(row.environment)
        else:
            machine = next((place for cell, place in found if cell == row.cell), None)
        found.setdefault((row.cell, machine), []).append(row)
    return list(found.values())


def _cell_of(rows: list[_NightRow], environments: Sequence[Environment]) -> NightCell:
    rows = sorted(rows, key=lambda row: (row.run.seed is None, row.run.seed or 0))
    first, seeds = rows[0], [row.run.seed for row in rows]
    if len(set(seeds)) < len(seeds):
        raise LoraBenchError(
            f"two runs of {plain(', '.join(first.name.words))} have the same seed; a night has each of them once"
        )
    known = {
        name: [count for row in rows if (count := row.counts.get(name)) is not None] for name in Counts.model_fields
    }
    environment = next((row.environment for row in rows if row.environment is not None), None)
    return NightCell(
        name=first.name,
        conditions=first.conditions.model_copy(update={"seeds": len(rows)}),
        environment=None if environment is None else environments.index(environment),
        higher_is_better=first.higher_is_better,
        scale=first.scale,
        margin=next((row for row in rows if row.declares_margin), first).margin,
        counts=Counts(**{name: max(counts, default=None) for name, counts in known.items()}),
        runs=tuple(row.run for row in rows),
    )
