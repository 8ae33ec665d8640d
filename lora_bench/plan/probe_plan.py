"""Plan the probes of a suite: every cell with its fitted size, and a job for each of its processes.

The cells of a suite depend on model, method, size and shapes, and not on seeds or learning rates. So a suite has fewer probe
cells than runs. Nothing is written here.
"""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lora_bench.errors import BadInput, Fault, LoraBenchError, refuse
from lora_bench.kinds import find_kind
from lora_bench.methods import with_size
from lora_bench.models.registry import BaseModel
from lora_bench.plan.group_cells import repeated_options
from lora_bench.plan.inputs import Progress, model_of_entry
from lora_bench.plan.make_plan import make_plan
from lora_bench.plan.resolve import method_spec, model_spec
from lora_bench.plan.size_fitting import MethodFit, fit_method
from lora_bench.probe.probe_job import ProbeJob
from lora_bench.records.budget import Budget
from lora_bench.records.environment import described_devices, usable_cores
from lora_bench.records.probe_record import DeviceType, ProbeRecord, ProbeSpec
from lora_bench.records.probe_store import PROBES
from lora_bench.records.spec import MethodSpec
from lora_bench.suite.consent import require_permission
from lora_bench.suite.entries import MethodEntry
from lora_bench.suite.load_suite import Suite
from lora_bench.suite.probe_suite import CellShape, ProbeSuite
from lora_bench.suite.schema import Probe

PROCESSES: dict[DeviceType, int] = {"cpu": 3, "cuda": 5}
Found = tuple[BaseModel, MethodEntry, MethodFit, CellShape, Probe]


@dataclass(frozen=True)
class ProbeCell:
    """One cell of a plan with its method's fit, measured by some processes; a twin is measured a second time unchanged."""

    spec: ProbeSpec
    base_model: BaseModel
    fit: MethodFit
    twin: bool
    processes: int


@dataclass(frozen=True)
class ProbePlan:
    """Every process of a suite's probes, in the order of execution.

    *jobs* are rounds over all cells, every second one backwards, so that a drift affects all alike; *refused* are records of
    cells that cannot be measured.
    """

    name: str
    folder: Path
    cells: tuple[ProbeCell, ...]
    jobs: tuple[ProbeJob, ...]
    refused: tuple[ProbeRecord, ...]

    def missing(self, *, retry: bool = False) -> list[ProbeJob]:
        """Return the processes without a record; with *retry* also those whose record did not end `ok`."""
        records = [(job, job.published()) for job in self.jobs]
        return [job for job, record in records if record is None or (retry and record.status != "ok")]


def plan_probes(
    suite: Suite | ProbeSuite,
    runs: Path,
    *,
    processes: int | None = None,
    data_dir: Path | None = None,
    progress: Progress | None = None,
) -> ProbePlan:
    """Resolve a suite of probes, or the cells of a suite of runs, to its probes; nothing is written to *runs*.

    *processes* is the number for each cell, by default the suite's or the device's. Raise BadInput with every fault of models
    and data.
    """
    card = next(iter(described_devices()), None)
    device: DeviceType = "cpu" if card is None else "cuda"
    found = _of_suite(suite, runs, data_dir, progress) if isinstance(suite, Suite) else _of_probes(suite, progress)
    cells: dict[str, ProbeCell] = {}
    twins: set[str] = set()
    for base_model, entry, fit, cell, probe in found:
        spec = ProbeSpec(
            model=model_spec(base_model),
            random_weights=not base_model.has_weights,
            kind=cell.kind,
            labels=cell.labels if find_kind(cell.kind).has_classes else 1,
            method=_method_spec(entry, fit),
            batch_size=cell.batch_size,
            length=cell.length,
            precision=cell.precision,
            base_precision=cell.base_precision,
            gradient_checkpointing=cell.gradient_checkpointing,
            attention=probe.attention,
            threads=cell.threads or usable_cores(),
            device=device,
            latency_shapes=probe.latency,
            wide_tokens=probe.wide_tokens,
            seconds=probe.seconds,
        )
        same = cells.get(spec.probe_id)
        if same is not None:
            if isinstance(suite, ProbeSuite):
                message = f"{same.spec.method.label!r} and {entry.label!r} are the same cell under two names"
                raise BadInput([suite.document.fault(("methods",), message)])
            continue  # tasks may have equal cells
        # The twin is of the first cell of every model, unless the suite names another method.
        twin = fit.reason is None and base_model.name not in twins and probe.twin in (None, entry.label)
        if twin:
            twins.add(base_model.name)
        count = processes or probe.processes or PROCESSES[device]
        cells[spec.probe_id] = ProbeCell(spec, base_model, fit, twin, count)
    command = shlex.join(["lora-bench", "probe", suite.command[1], *repeated_options(suite, data_dir)])
    folder = runs / PROBES
    planned = tuple(cells.values())

    def job(cell: ProbeCell, repeat: int, twin: bool) -> ProbeJob:
        return ProbeJob(cell.spec, suite.name, cell.base_model, repeat, twin, folder, command, card)

    jobs = []
    able = [cell for cell in planned if cell.fit.reason is None]
    for repeat in range(max((cell.processes for cell in able), default=0)):
        round_of = [job(cell, repeat, False) for cell in able if repeat < cell.processes]
        round_of += [job(cell, repeat, True) for cell in able if cell.twin and repeat < cell.processes]
        jobs += round_of if repeat % 2 == 0 else round_of[::-1]
    refused = [
        job(cell, 0, False).record("unsupported", cell.fit.reason) for cell in planned if cell.fit.reason is not None
    ]
    return ProbePlan(suite.name, folder, planned, tuple(jobs), tuple(refused))


def _method_spec(entry: MethodEntry, fit: MethodFit) -> MethodSpec:
    """Return the spec of a method; if it cannot be measured, with the reason, so that a new reason gives a new id."""
    spec = method_spec(entry.label, with_size(entry.method, fit.size) if fit.size is not None else entry.method)
    return (
        spec if fit.reason is None else spec.model_copy(update={"chosen": {**spec.chosen, "unsupported": fit.reason}})
    )


def _of_probes(suite: ProbeSuite, progress: Progress | None) -> Iterator[Found]:
    require_permission(suite)
    models: list[BaseModel] = []
    faults: list[Fault] = []
    for index, one in enumerate(suite.models):
        try:
            models.append(model_of_entry(one, suite.file.parent, suite.pickles, progress))
        except LoraBenchError as error:
            faults.append(suite.document.fault(("models", index), str(error)))
    refuse(faults)
    size = suite.content.budget
    budget = Budget(
        adapter_parameters=size.adapter_parameters if size is not None else None,
        tolerance=size.tolerance if size is not None else 0.05,
        train_examples=1,  # a probe's work is its window
    )
    for base_model in models:
        for entry in suite.methods:
            if entry.is_for("", base_model.name):
                cell, probe = suite.cell(base_model.name, entry.label)
                fit = fit_method(entry.method, base_model, cell.kind, cell.labels, budget, progress)
                yield base_model, entry, fit, cell, probe


def _of_suite(suite: Suite, runs: Path, data_dir: Path | None, progress: Progress | None) -> Iterator[Found]:
    plan = make_plan(suite, runs, data_dir=data_dir, progress=progress)
    entries = {entry.label: entry for entry in suite.methods}
    known = [*plan.cells, *(cell for waiting in plan.waiting for cell in waiting.cells)]
    for cell in known:
        spec = cell.job.spec
        shape = CellShape(
            kind=cell.job.task.kind_of.model_kind,
            labels=max(1, len(spec.task.labels)),
            batch_size=spec.training.batch_size,
            length=spec.training.max_length,
            precision=spec.training.precision,
            base_precision=spec.training.base_precision,
            gradient_checkpointing=spec.training.gradient_checkpointing,
            threads=spec.training.threads,
        )
        yield cell.job.base_model, entries[spec.method.label], cell.fit, shape, suite.content.probe or Probe()
