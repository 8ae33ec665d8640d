"""What a suite comes to, before any training: every run with its fitted size, exact counts, and estimated cost.

    Suite → data, base models, fits → [Cell], each a job or a row that cannot run, with its reason

Data and base models are obtained here, so whatever is wrong with them is said before the first step.
"""

from __future__ import annotations

import dataclasses
import math
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue
from pydantic.fields import FieldInfo

from lora_bench.budget import Budget
from lora_bench.errors import BadInput, Fault, LoraBenchError, did_you_mean
from lora_bench.estimate import Estimate, estimate_run
from lora_bench.fitting import MethodFit, fit_method
from lora_bench.job import Job
from lora_bench.methods import Method, with_size
from lora_bench.models import BaseModel, find_model
from lora_bench.record import Record
from lora_bench.spec import MethodSpec, ModelSpec, RunSpec, TaskSpec, TrainingSpec
from lora_bench.store import RunFolder
from lora_bench.suite import MethodEntry, Suite
from lora_bench.tasks import Task, TaskData, definition, load_data

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Cell:
    """One run of a plan.

    Args:
        job: What to run.
        fit: The method's size and counts.
        record: The record that is there already, or None.
        estimate: What the run is likely to cost.
    """

    job: Job
    fit: MethodFit
    record: Record | None
    estimate: Estimate

    @property
    def reason(self) -> str | None:
        """Why the run cannot be done, or None where it can."""
        return self.fit.reason


@dataclass(frozen=True)
class Plan:
    """Every run of a suite, in the suite's order, and what was noticed about the data."""

    suite: Suite
    cells: tuple[Cell, ...]
    runs: Path
    warnings: tuple[str, ...]

    @property
    def missing(self) -> list[Cell]:
        """The runs that are still to be done: those that can be and have no record."""
        return [cell for cell in self.cells if cell.record is None]


@dataclass(frozen=True)
class _LoadedTask:
    task: Task
    base: Path
    data: TaskData


def make_plan(
    suite: Suite,
    runs: Path,
    *,
    series: str | None = None,
    progress: Progress | None = None,
) -> Plan:
    """Resolve a suite to its runs.

    Args:
        suite: What to run.
        runs: The folder of this suite's runs; read, not written.
        series: Label of a repeat, which gives runs of its own.
        progress: Told what takes a while.

    Raises:
        BadInput: With every fault of the data and the base models, or where no method but `full` can meet the budget.
    """
    tasks, models = _obtain(suite, progress)
    cells: list[Cell] = []
    for loaded in tasks:
        for base_model in models:
            for entry in suite.methods:
                fit = fit_method(
                    entry.method,
                    base_model,
                    max(1, len(loaded.data.labels)),
                    loaded.task.kind == "regression",
                    suite.content.budget,
                    progress,
                )
                method = with_size(entry.method, fit.size) if fit.size is not None else entry.method
                for rate in entry.rates(base_model.name):
                    for seed in suite.content.seeds:
                        spec = _spec(suite, loaded, base_model, entry, method, rate, seed, series)
                        if fit.reason is not None:
                            spec = _not_to_be_run(spec, fit.reason)
                        folder = RunFolder(runs / spec.run_id)
                        job = Job(
                            spec=spec,
                            suite=suite.name,
                            budget=suite.content.budget,
                            task=loaded.task,
                            task_base=loaded.base,
                            base_model=base_model,
                            folder=folder,
                            command=_command(suite, spec, series),
                        )
                        cells.append(Cell(job, fit, folder.record(), estimate_run(spec, fit, loaded.data)))
    cells = _estimated_from_records(cells)
    _refuse_twins(suite, cells)
    _refuse_unreachable(suite, cells)
    if any(cell.record is None for cell in cells):
        _check_recipe(suite, cells, models)
    warnings = [f"{loaded.task.task}: {warning}" for loaded in tasks for warning in loaded.data.warnings]
    return Plan(suite, tuple(cells), runs, tuple(warnings))


def _obtain(suite: Suite, progress: Progress | None) -> tuple[list[_LoadedTask], list[BaseModel]]:
    """The data and the base models of a suite, or every fault in them at once."""
    faults: list[Fault] = []
    tasks: list[_LoadedTask] = []
    models: list[BaseModel] = []
    for task, base in suite.tasks:
        try:
            tasks.append(_LoadedTask(task, base, load_data(task, base, progress)))
        except BadInput as error:
            faults += error.faults
        except LoraBenchError as error:
            faults.append(suite.document.fault(("tasks", len(tasks)), str(error)))
    for index, entry in enumerate(suite.models):
        try:
            found = find_model(
                entry.model, base=suite.base, revision=entry.revision, shown=entry.shown, progress=progress
            )
            models.append(found)
        except LoraBenchError as error:
            faults.append(suite.document.fault(("models", index), str(error)))
    if faults:
        raise BadInput(faults)
    return tasks, models


def _check_recipe(suite: Suite, cells: list[Cell], models: list[BaseModel]) -> None:
    """Refuse, before any work, what only transformers can judge: its own arguments, and tokenizers."""
    from transformers import TrainingArguments

    from lora_bench.models import load_tokenizer
    from lora_bench.recipe import training_arguments

    faults: list[Fault] = []
    known = {field.name: field for field in dataclasses.fields(TrainingArguments) if field.init}
    for name, value in suite.content.training_arguments.items():
        key = ("training_arguments", name)
        if name not in known:
            faults.append(suite.document.fault(key, f"unknown key{did_you_mean(name, known)}"))
        elif isinstance(known[name].default, int | float) and not isinstance(value, int | float):
            kind = type(known[name].default).__name__
            faults.append(suite.document.fault(key, f"must be {kind}, got {value!r} ({type(value).__name__})"))
    if not faults:
        try:
            training_arguments(cells[0].job.spec, "nowhere")
        except (ValueError, TypeError, ImportError) as error:
            first = next(iter(str(error).strip().splitlines()), type(error).__name__)
            faults.append(suite.document.fault(("training_arguments",), first))
    for index, base_model in enumerate(models):
        try:
            load_tokenizer(base_model)
        except LoraBenchError as error:
            faults.append(suite.document.fault(("models", index), str(error)))
    if faults:
        raise BadInput(faults)


def _not_to_be_run(spec: RunSpec, reason: str) -> RunSpec:
    """A spec whose id says why it cannot run: should the reason go away, its record does not stand in the way."""
    chosen = {**spec.method.chosen, "unsupported": reason}
    return spec.model_copy(update={"method": spec.method.model_copy(update={"chosen": chosen})})


def _spec(
    suite: Suite,
    loaded: _LoadedTask,
    base_model: BaseModel,
    entry: MethodEntry,
    method: Method,
    learning_rate: float,
    seed: int,
    series: str | None,
) -> RunSpec:
    content, recipe = suite.content, suite.content.training
    examples = _train_examples(content.budget, len(loaded.data.splits["train"].ids))
    steps = math.ceil(examples / recipe.batch_size)
    return RunSpec(
        task=TaskSpec(
            name=loaded.task.task,
            definition=definition(loaded.task),
            data_sha256=loaded.data.sha256,
            labels=loaded.data.labels,
            metric=loaded.task.metric,
            higher_is_better=loaded.task.higher_is_better,
        ),
        model=ModelSpec(
            name=base_model.name if not Path(base_model.name).is_absolute() else Path(base_model.name).name,
            shown=base_model.shown,
            sha256=base_model.sha256,
            revision=base_model.revision,
            model_type=base_model.model_type,
        ),
        method=MethodSpec(
            name=method.name,
            label=entry.label,
            size=method.size,
            options=method.model_dump(mode="json"),
            chosen=_chosen(method),
        ),
        training=TrainingSpec(
            train_examples=examples,
            batch_size=recipe.batch_size,
            steps=steps,
            max_length=recipe.max_length,
            learning_rate=learning_rate,
            schedule=recipe.schedule,
            warmup_steps=round(recipe.warmup * steps),
            weight_decay=recipe.weight_decay,
            max_grad_norm=recipe.max_grad_norm,
            precision=recipe.precision,
            threads=recipe.threads,
            arguments=content.training_arguments,
        ),
        seed=seed,
        protocol=content.protocol,
        score_on=content.score_on,
        selection_every=content.selection_every,
        keep_weights=content.keep_weights,
        series=series,
    )


def _chosen(method: Method) -> dict[str, JsonValue]:
    """The size, and the options that differ from their defaults."""
    fields: dict[str, FieldInfo] = type(method).model_fields  # type: ignore[attr-defined]  # a Strict model
    return {
        name: value
        for name, value in method.model_dump(mode="json").items()
        if name == method.size or getattr(method, name) != fields[name].get_default(call_default_factory=True)
    }


def _train_examples(budget: Budget, in_split: int) -> int:
    if budget.train_examples is not None:
        return budget.train_examples
    assert budget.epochs is not None
    return max(1, round(budget.epochs * in_split))


def _command(suite: Suite, spec: RunSpec, series: str | None) -> str:
    """What a user types to make the record again; a file is named as the user did, without its folders if absolute."""
    argument = Path(suite.argument).name if Path(suite.argument).is_absolute() else suite.argument
    return shlex.join(
        ["lora-bench", "run", argument, "--only", spec.run_id, *(["--series", series] if series is not None else [])]
    )


def _estimated_from_records(cells: list[Cell]) -> list[Cell]:
    """The cells, with seconds from a record of the same cell (whatever its seed) where there is one."""
    seconds: dict[tuple[str, ...], float] = {}
    for cell in cells:
        record = cell.record
        if record is not None and record.speed is not None:
            speed = record.speed
            seconds[_kind(cell)] = speed.load_seconds + speed.train_seconds + (speed.evaluation_seconds or 0.0)
    return [
        Cell(
            cell.job,
            cell.fit,
            cell.record,
            Estimate(seconds[_kind(cell)], cell.estimate.memory_bytes, cell.estimate.disk_bytes, measured=True),
        )
        if _kind(cell) in seconds
        else cell
        for cell in cells
    ]


def _kind(cell: Cell) -> tuple[str, ...]:
    spec = cell.job.spec
    return spec.task.name, spec.model.name, spec.method.label


def _refuse_twins(suite: Suite, cells: list[Cell]) -> None:
    """Two cells that are the same run under two names are a mistake: they would share one record."""
    first: dict[str, Cell] = {}
    faults: dict[str, None] = {}
    for cell in cells:
        other = first.setdefault(cell.job.spec.run_id, cell)
        if other is not cell:
            faults[f"{_named(other)} and {_named(cell)} are the same runs under two names"] = None
    if faults:
        raise BadInput(suite.document.fault(("methods",), fault) for fault in faults)


def _named(cell: Cell) -> str:
    spec = cell.job.spec
    return f"{spec.method.label!r} on {spec.model.name!r} for {spec.task.name!r}"


def _refuse_unreachable(suite: Suite, cells: list[Cell]) -> None:
    """A budget that nothing but the reference line can meet is a mistake in the suite, not a row of its report."""
    sized = [cell for cell in cells if cell.job.spec.method.size is not None]
    if suite.content.budget.adapter_parameters is None or not sized or any(cell.reason is None for cell in sized):
        return
    reasons = {f"{cell.job.spec.method.label} on {cell.job.spec.model.name}: {cell.reason}": None for cell in sized}
    raise BadInput(suite.document.fault(("budget", "adapter_parameters"), reason) for reason in reasons)
