"""Turn the records of one series label into a night: a cell for every series, with its scores and exact counts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

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

AnyRecord = TypeVar("AnyRecord", Record, ProbeRecord)
Held = tuple[CellName, Conditions, Machine | None]


@dataclass(frozen=True)
class _Group(Generic[AnyRecord]):
    """Records of one series."""

    name: CellName
    conditions: Conditions
    records: list[AnyRecord]


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
    cells = [_cell_of_runs(group, environments) for group in _grouped(records, _series_of_run)]
    measured = [probe for probe in probes if not probe.twin]
    cells += [_cell_of_probes(group, environments) for group in _grouped(measured, _series_of_probe)]
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


def _machine(environment: Environment | None) -> Machine | None:
    return None if environment is None else machine_of(environment)


def _without_size(method: MethodSpec) -> dict[str, JsonValue]:
    return {key: value for key, value in method.chosen.items() if key != method.size}


def _size(method: MethodSpec) -> JsonValue:
    return None if method.size is None else method.options.get(method.size)


def _series_of_run(record: Record) -> Held:
    spec = record.spec
    conditions = Conditions(
        size=_size(spec.method),
        seeds=0,  # known when its runs are together
        precision=spec.training.precision,
        threads=spec.training.threads,
        data=spec.task.data_sha256,
        base_model=spec.model.sha256,
        recipe=recipe_of(spec),
    )
    return name_of(record), conditions, _machine(record.environment)


def _series_of_probe(probe: ProbeRecord) -> Held:
    spec = probe.spec
    name = CellName(
        task=None,
        model=spec.model.name,
        method=spec.method.label,
        target=None,
        learning_rate=None,
        metric=STEP_SECONDS,
    )
    shapes = spec.model_dump(mode="json", exclude={"model", "method", "precision", "threads"})
    conditions = Conditions(
        size=_size(spec.method),
        seeds=0,
        precision=spec.precision,
        threads=spec.threads,
        data=None,
        base_model=spec.model.sha256,
        recipe=content_hash([shapes, spec.method.name, _without_size(spec.method)])[:16],
    )
    return name, conditions, _machine(probe.environment)


def _grouped(records: Iterable[AnyRecord], series_of: Callable[[AnyRecord], Held]) -> list[_Group[AnyRecord]]:
    """Group records by series, in the order of their seeds.

    A run that crashed before its environment was known joins the rest of its cell.
    """
    found: dict[tuple[str, Machine | None], _Group[AnyRecord]] = {}
    for record in sorted(records, key=lambda record: record.environment is None):
        name, conditions, machine = series_of(record)
        cell = content_hash([name.model_dump(mode="json"), conditions.model_dump(mode="json")])
        if machine is None:
            machine = next((place for other, place in found if other == cell), None)
        group = found.setdefault((cell, machine), _Group(name, conditions, []))
        group.records.append(record)
    return list(found.values())


def _cell_of_runs(group: _Group[Record], environments: Sequence[Environment]) -> NightCell:
    records = sorted(group.records, key=lambda record: (record.spec.seed is None, record.spec.seed or 0))
    seeds = [record.spec.seed for record in records]
    if len(set(seeds)) < len(seeds):
        raise LoraBenchError(
            f"two runs of {plain(', '.join(group.name.words))} have the same seed; a night has each of them once"
        )
    spec = records[0].spec
    analysis = next((record.analysis for record in records if record.analysis is not None), _UNDECLARED)
    counted = [record.parameters for record in records if record.parameters is not None]
    peaks = [
        peak
        for record in records
        if record.memory is not None and record.memory.kind == "allocated"
        if (peak := record.memory.train_peak_bytes) is not None
    ]
    stored = [record.weights.stored_bytes for record in records if record.weights is not None]
    numbers = counted[0].model_dump() if counted else {}
    return NightCell(
        name=group.name,
        conditions=group.conditions.model_copy(update={"seeds": len(records)}),
        environment=_index(records, environments),
        higher_is_better=spec.task.higher_is_better is not False,
        margin=analysis.margin_of(spec.task.name, spec.task.metric),
        counts=Counts(
            **numbers, checkpoint_bytes=max(stored, default=None), peak_allocated_bytes=max(peaks, default=None)
        ),
        runs=tuple(
            NightRun(
                seed=record.spec.seed,
                run_id=record.run_id,
                status=record.status,
                score=record.judged_score,
                reason=record.reason,
                seconds=_seconds(record),
                command=record.command,
            )
            for record in records
        ),
    )


def _cell_of_probes(group: _Group[ProbeRecord], environments: Sequence[Environment]) -> NightCell:
    probes = sorted(group.records, key=lambda probe: probe.repeat)
    last = next((probe for probe in probes if probe.status == "ok"), probes[0])
    peaks = [peak for probe in probes if (peak := _allocated(probe)) is not None]
    numbers = last.parameters.model_dump() if last.parameters is not None else {}
    return NightCell(
        name=group.name,
        conditions=group.conditions.model_copy(update={"seeds": len(probes)}),
        environment=_index(probes, environments),
        higher_is_better=False,
        scale="log",
        margin=STEP_SECONDS_MARGIN,
        counts=Counts(
            **numbers,
            checkpoint_bytes=None if last.checkpoint is None else last.checkpoint.stored_bytes,
            step_flops=None if last.flops is None else last.flops.step,
            peak_allocated_bytes=max(peaks, default=None),
        ),
        runs=tuple(
            NightRun(
                seed=probe.repeat,
                run_id=probe.run_id,
                status=probe.status,
                score=None if probe.speed is None else probe.speed.step_seconds_median,
                reason=probe.reason,
                command=probe.command,
            )
            for probe in probes
        ),
    )


def _allocated(probe: ProbeRecord) -> int | None:
    """Return the peak memory of a step: the allocator's on CUDA, elsewhere the counted one."""
    phases = probe.phases
    if phases is not None and phases.kind == "allocated":
        peaks = [peak for peak in (phases.first_step_bytes, phases.steady_bytes) if peak is not None]
        return max(peaks, default=None)
    return None if probe.measured is None else probe.measured.peak_bytes


def _index(records: Sequence[Record | ProbeRecord], environments: Sequence[Environment]) -> int | None:
    environment = next((record.environment for record in records if record.environment is not None), None)
    return None if environment is None else environments.index(environment)


def _seconds(record: Record) -> float | None:
    return None if record.speed is None else round(record.speed.seconds, 3)
