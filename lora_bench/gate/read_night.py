"""Turn the records of one series label into a night: a cell for every series, with its scores and exact counts."""

import math
from collections.abc import Container, Iterable, Sequence
from pathlib import Path

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


def read_night(folder: Path, label: str | None = None) -> Night:
    """Read the night whose runs and probes are in *folder*, a runs folder or a baseline.

    Its *label* is by default the series label of its records, or the folder's name if they have none. Raise LoraBenchError if
    there are no records, they are of several suites, or two runs of a series have the same seed, and BadInput with every record
    that cannot be read.
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

    Raise LoraBenchError if they are of several suites, two runs of one series have the same seed, or *label* names no file.
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
    cells = [_cell_of_run(record, environments) for record in records]
    cells += [_cell_of_probe(probe, environments) for probe in probes if not probe.twin]
    declares = {record.run_id for record in records if record.analysis is not None}
    merged = [_merged(group, declares) for group in _by_series(cells, environments)]
    return Night(
        suite=suites[0],
        label=label,
        environments=tuple(environments),
        cells=tuple(sorted(merged, key=lambda cell: cell.name.words)),
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


def _cell_of_run(record: Record, environments: Sequence[Environment]) -> NightCell:
    spec, memory, weights = record.spec, record.memory, record.weights
    run = NightRun(
        seed=spec.seed,
        run_id=record.run_id,
        status=record.status,
        score=record.judged_score,
        reason=record.reason,
        seconds=None if record.speed is None else round(record.speed.seconds, 3),
        command=record.command,
    )
    return NightCell(
        name=name_of(record),
        conditions=Conditions(
            size=_size(spec.method),
            seeds=1,
            precision=spec.training.precision,
            threads=spec.training.threads,
            data=spec.task.data_sha256,
            base_model=spec.model.sha256,
            recipe=recipe_of(spec),
        ),
        environment=None if record.environment is None else environments.index(record.environment),
        higher_is_better=spec.task.higher_is_better is not False,
        margin=(record.analysis or _UNDECLARED).margin_of(spec.task.name, spec.task.metric),
        counts=Counts(
            **_weights(record),
            checkpoint_bytes=None if weights is None else weights.stored_bytes,
            peak_allocated_bytes=memory.train_peak_bytes if memory is not None and memory.kind == "allocated" else None,
        ),
        runs=(run,),
    )


def _cell_of_probe(probe: ProbeRecord, environments: Sequence[Environment]) -> NightCell:
    spec = probe.spec
    method = spec.method
    shapes = spec.model_dump(mode="json", exclude={"model", "method", "precision", "threads"})
    run = NightRun(
        seed=probe.repeat,
        run_id=probe.run_id,
        status=probe.status,
        score=None if probe.speed is None else probe.speed.step_seconds_median,
        reason=probe.reason,
        command=probe.command,
    )
    return NightCell(
        name=CellName(
            task=None, model=spec.model.name, method=method.label, target=None, learning_rate=None, metric=STEP_SECONDS
        ),
        conditions=Conditions(
            size=_size(method),
            seeds=1,
            precision=spec.precision,
            threads=spec.threads,
            data=None,
            base_model=spec.model.sha256,
            recipe=content_hash([shapes, method.name, _without_size(method)])[:16],
        ),
        environment=None if probe.environment is None else environments.index(probe.environment),
        higher_is_better=False,
        scale="log",
        margin=STEP_SECONDS_MARGIN,
        counts=Counts(
            **_weights(probe),
            checkpoint_bytes=None if probe.checkpoint is None else probe.checkpoint.stored_bytes,
            step_flops=None if probe.flops is None else probe.flops.step,
            peak_allocated_bytes=_allocated(probe),
        ),
        runs=(run,),
    )


def _weights(record: Record | ProbeRecord) -> dict[str, int | None]:
    return {} if record.parameters is None else record.parameters.model_dump()


def _allocated(probe: ProbeRecord) -> int | None:
    """Return the peak memory of a step: the allocator's on CUDA, elsewhere the counted one."""
    phases = probe.phases
    if phases is not None and phases.kind == "allocated":
        peaks = [peak for peak in (phases.first_step_bytes, phases.steady_bytes) if peak is not None]
        return max(peaks, default=None)
    return None if probe.measured is None else probe.measured.peak_bytes


def _by_series(cells: Iterable[NightCell], environments: Sequence[Environment]) -> list[list[NightCell]]:
    """Group cells of one run by series; a run that crashed before its environment was known joins the rest of its cell."""
    found: dict[tuple[str, Machine | None], list[NightCell]] = {}
    for cell in sorted(cells, key=lambda cell: cell.environment is None):
        key = content_hash([cell.name.model_dump(mode="json"), cell.conditions.model_dump(mode="json")])
        if cell.environment is not None:
            machine: Machine | None = machine_of(environments[cell.environment])
        else:
            machine = next((place for other, place in found if other == key), None)
        found.setdefault((key, machine), []).append(cell)
    return list(found.values())


def _merged(cells: list[NightCell], declares: Container[str]) -> NightCell:
    """Return the cell of several runs; its margin is that of the first run that *declares* one."""
    cells = sorted(cells, key=lambda cell: (cell.runs[0].seed is None, cell.runs[0].seed or 0))
    first, runs = cells[0], [run for cell in cells for run in cell.runs]
    if len({run.seed for run in runs}) < len(runs):
        raise LoraBenchError(
            f"two runs of {plain(', '.join(first.name.words))} have the same seed; a night has each of them once"
        )
    known = {
        name: [count for cell in cells if (count := getattr(cell.counts, name)) is not None]
        for name in Counts.model_fields
    }
    return first.model_copy(
        update={
            "conditions": first.conditions.model_copy(update={"seeds": len(runs)}),
            "environment": next((cell.environment for cell in cells if cell.environment is not None), None),
            "margin": next((cell for cell in cells if cell.runs[0].run_id in declares), first).margin,
            "counts": Counts(**{name: max(counts, default=None) for name, counts in known.items()}),
            "runs": tuple(runs),
        }
    )
