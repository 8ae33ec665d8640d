"""Plan a suite before any training: every run with its fitted size, exact counts, and estimated cost.

    Suite → data, base models, fits → [Cell], each a job or a row that cannot run, with its reason

Data and base models are obtained here, so their faults are reported before the first step.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from lora_bench.models.label_order import label_order_warnings
from lora_bench.models.registry import BaseModel
from lora_bench.plan import checks
from lora_bench.plan.cell import Cell, Waiting
from lora_bench.plan.check_lengths import check_lengths
from lora_bench.plan.describe_data import DataFacts, describe, odd_classes, too_small
from lora_bench.plan.inputs import LoadedTask, Progress, obtain, retention_data
from lora_bench.plan.planner import Planner
from lora_bench.plan.rounds import rounds_of
from lora_bench.records.outcomes import is_untried
from lora_bench.records.record import Record
from lora_bench.suite.load_suite import Suite


@dataclass(frozen=True)
class Plan:
    """Every run of a suite, in the suite's order, and warnings.

    Args:
        warnings: Warnings about data and base models, which records keep too.
        cautions: Warnings about the suite itself: rates, memory and test splits.
        waiting: Runs that become known when others are done.
        chosen: Known runs that depend on the records of others.
        untried: Ids of runs that others wait for but whose record decides nothing: they must be repeated.
        decided: What the seeds so far have decided, in sentences, where seeds are added until decided.
    """

    suite: Suite
    cells: tuple[Cell, ...]
    runs: Path
    warnings: tuple[str, ...]
    cautions: tuple[str, ...] = ()
    data: tuple[DataFacts, ...] = ()
    waiting: tuple[Waiting, ...] = ()
    chosen: tuple[Cell, ...] = ()
    untried: frozenset[str] = frozenset()
    decided: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def missing(self) -> list[Cell]:
        """Return the runs still to do: those that can be done and have no record."""
        return [cell for cell in self.cells if cell.record is None]


def make_plan(
    suite: Suite,
    runs: Path,
    *,
    series: str | None = None,
    data_dir: Path | None = None,
    only: Collection[str] = (),
    progress: Progress | None = None,
    untried: Callable[[Record], bool] = is_untried,
    download: bool = True,
    with_data: bool = False,
    slowdowns: Mapping[str, float] = MappingProxyType({}),
) -> Plan:
    """Resolve a suite to its runs.

    Args:
        suite: The suite.
        runs: Folder of this suite's runs; read, not written.
        series: Label of a repeat, which has runs of its own.
        data_dir: Folder with published data sets in their usual layout, used for every task that has one.
        only: Ids of the requested runs; a learning rate in one of them need not be chosen by trials.
        progress: Called with a sentence before slow work.
        untried: Returns True if a record decides nothing, because its run must be repeated.
        download: False to plan with known shapes and released counts for what is not on this machine. Such a plan can be
            shown and not run.
        with_data: Describe the data too, for a reader.
        slowdowns: How many times its estimate a run takes, by the label of its method, where that was measured.

    Raise BadInput with every fault of the data and the base models, or if only `full` can meet the budget.
    """
    tasks, models = obtain(suite, data_dir, progress, download=download)
    unequal = checks.check_equal_trials(suite, tasks, models)
    retention = retention_data(suite, models, data_dir, progress)
    planner = Planner(suite, runs, series, data_dir, only, progress, untried, retention)
    # A run that starts from another task's run needs that task's runs to be known.
    started = {name for recipe in suite.content.recipes if recipe.start is not None for name in recipe.tasks}
    for loaded in sorted(tasks, key=lambda loaded: loaded.task.task in started):
        checks.check_folds(suite, loaded)
        for base_model in models:
            for entry in suite.methods:
                if entry.is_for(loaded.task.task, base_model.name):
                    for distinct in suite.content.distinct_examples or (None,):
                        checks.check_distinct(suite, loaded, distinct)
                        for budget in suite.budgets(entry):
                            planner.add(loaded, base_model, entry, budget, distinct)
    rounds = rounds_of(suite, runs, planner.cells, known=not planner.waiting, untried=untried)
    order = {loaded.task.task: index for index, loaded in enumerate(tasks)}
    cells = sorted(
        _estimated_from_records(_at_pace(rounds.cells, slowdowns)), key=lambda cell: order[cell.job.spec.task.name]
    )
    checks.refuse_twins(suite, cells)
    checks.refuse_unreachable(suite, cells)
    if any(cell.record is None for cell in cells):
        checks.check_recipe(suite, cells, models)
        check_lengths(suite, cells, {loaded.task.task: loaded.data for loaded in tasks})
    warnings = [warning for model in models for warning in model.warnings]
    warnings += [f"{loaded.task.task}: {warning}" for loaded in tasks for warning in loaded.data.warnings]
    warnings += [said for model in models for one in tasks for said in label_order_warnings(model, one.data.labels)]
    at_hand = [loaded for loaded in tasks if not loaded.data.counted_only]
    readable = [model for model in models if model.has_weights]
    ids = {cell.job.run_id for cell in cells}
    known = [*cells, *(cell for waiting in planner.waiting for cell in waiting.cells)]
    return Plan(
        suite,
        tuple(cells),
        runs,
        tuple(warnings),
        cautions=(
            *checks.untuned(suite, tasks, models),
            *checks.suggested_rates(suite, cells),
            *unequal,
            *checks.coarse_tuning(suite),
            *checks.unseen_rows(cells),
            *(f"{loaded.task.task}: {note}" for loaded in tasks if (note := loaded.task.kind_of.plan_note) is not None),
            *too_small(suite, at_hand),
            *odd_classes(at_hand),
            *checks.beyond_memory(cells),
        ),
        data=tuple(describe(suite, loaded, readable, known) for loaded in at_hand) if with_data else (),
        waiting=tuple(
            replace(waiting, cells=tuple(_at_pace(waiting.cells, slowdowns)))
            for waiting in (*planner.waiting, *rounds.waiting)
        ),
        chosen=tuple(cell for cell in planner.chosen if cell.job.run_id in ids),
        untried=frozenset(planner.undecided | rounds.untried),
        decided=rounds.decided,
        notes=tuple(_not_downloaded(tasks, models)),
    )


def _not_downloaded(tasks: Sequence[LoadedTask], models: Sequence[BaseModel]) -> Iterator[str]:
    """Yield a sentence on the base models, and one on the data, that were not downloaded."""
    shapes = [model.shown for model in models if not model.has_weights]
    if shapes:
        yield f"not downloaded: {', '.join(shapes)}; sizes, counts and memory follow from the published shape"
    counted = [loaded.task.task for loaded in tasks if loaded.data.counted_only]
    if counted:
        yield f"not downloaded: data of {', '.join(counted)}; rows are the release's, and times are not known"


def _at_pace(cells: Iterable[Cell], slowdowns: Mapping[str, float]) -> list[Cell]:
    """Return the cells with as many times their estimated seconds as was measured for their methods."""
    return [
        replace(cell, estimate=replace(cell.estimate, seconds=cell.estimate.seconds * times))
        for cell in cells
        for times in [slowdowns.get(cell.job.spec.method.label, 1.0)]
    ]


def _estimated_from_records(cells: list[Cell]) -> list[Cell]:
    """Return the cells, with seconds from a record of the same cell (any seed) if there is one."""
    seconds: dict[tuple[object, ...], float] = {}
    for cell in cells:
        record = cell.record
        if record is not None and record.speed is not None:
            whole, shared = record.speed.seconds, record.went_on.train_seconds if record.went_on is not None else 0.0
            seconds[_kind(cell), False] = whole
            seconds[_kind(cell), record.went_on is not None] = whole - shared
    return [
        cell
        if (known := seconds.get((_kind(cell), cell.job.after is not None))) is None
        else replace(cell, estimate=replace(cell.estimate, seconds=known, measured=True, timed=True))
        for cell in cells
    ]


def _kind(cell: Cell) -> tuple[object, ...]:
    return cell.place, cell.job.spec.training.target
