"""The runs of a task, base model, method and budget: its trials and, once these have records, its reported runs."""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import JsonValue

from lora_bench.errors import BudgetUnreachable, UnsupportedPair
from lora_bench.methods import Method, with_size
from lora_bench.models.loading import reads_apart
from lora_bench.models.registry import BaseModel
from lora_bench.plan.cell import Cell, Waiting
from lora_bench.plan.checks import check_cell, check_first_rung, check_loss
from lora_bench.plan.group_cells import GroupCells
from lora_bench.plan.inputs import LoadedTask, Progress, Retentions
from lora_bench.plan.micro_batch import micro_batch
from lora_bench.plan.selection import rate_beyond, start_records, trials_among
from lora_bench.plan.size_fitting import MethodFit, check_fits, fit_method
from lora_bench.records.budget import Budget
from lora_bench.records.kept_adapter import KeptAdapter
from lora_bench.records.record import Record
from lora_bench.records.spec import Start
from lora_bench.stats.rates import half
from lora_bench.suite.entries import MethodEntry
from lora_bench.suite.halving import Rung
from lora_bench.suite.load_suite import CellRecipe, Suite
from lora_bench.suite.schema import Tuning
from lora_bench.training.measure.step_costs import step_flops


@dataclass(eq=False)
class Planner:
    """Plans the runs of one task, base model and method after another."""

    suite: Suite
    runs: Path
    series: str | None
    data_dir: Path | None
    only: Collection[str]
    progress: Progress | None
    untried: Callable[[Record], bool]
    retention: Retentions
    cells: list[Cell] = field(default_factory=list)
    waiting: list[Waiting] = field(default_factory=list)
    chosen: list[Cell] = field(default_factory=list)
    undecided: set[str] = field(default_factory=set)
    fits: dict[str, MethodFit] = field(default_factory=dict)

    def add(
        self, loaded: LoadedTask, base_model: BaseModel, entry: MethodEntry, budget: Budget, distinct: int | None
    ) -> None:
        """Add a method's trials and, once these are done, its reported runs, on *distinct* training rows (None: all)."""
        cells = self._cells(loaded, base_model, entry, budget, distinct)
        recipe, rates = cells.recipe, cells.recipe.rates
        reported = cells.at_rate(rates[0])
        tuned = self.suite.content.tuning is not None and len(rates) > 1
        if cells.fit.reason is not None:
            # A pair that does not work is one row for all rates.
            self.cells += reported
        elif not (tuned or recipe.start is not None):
            # A search reports every rate.
            self.cells += [*reported, *(cell for rate in rates[1:] for cell in cells.at_rate(rate))]
        elif (rate := self._tune(cells) if tuned else rates[0]) is None:
            self._await_rate(cells, reported)
        elif recipe.start is None:
            self._choose(cells.at_rate(rate))
        elif self.suite.adapter is not None:
            self._start_from_adapter(cells, rate, recipe.start, self.suite.adapter)
        else:
            self._start_from_runs(cells, rate, recipe.start, reported)

    def _cells(
        self, loaded: LoadedTask, base_model: BaseModel, entry: MethodEntry, budget: Budget, distinct: int | None
    ) -> GroupCells:
        """Return the maker of the runs, with the size that meets the budget; its fit has the reason if none does."""
        suite, name = self.suite, loaded.task.task
        retention, retained = self.retention.get(base_model.name, (None, None))
        recipe = suite.recipe(name, base_model.name, entry, budget)
        check_cell(suite, recipe, name, base_model, entry)
        check_loss(suite, recipe, loaded.task, base_model, entry)
        labels = len(loaded.data.labels)
        fit = fit_method(
            entry.method, base_model, loaded.task.kind_of.model_kind, labels, recipe.budget, self.progress, self.fits
        )
        refusal = loaded.task.kind_of.refusal(
            base_model.model_type, apart=reads_apart(base_model.model_type), processes=recipe.training.processes
        )
        if fit.reason is None and refusal is not None:
            fit = _refused(fit, refusal)
        method = with_size(entry.method, fit.size) if fit.size is not None else entry.method
        if fit.reason is None:
            fit, recipe = _fitted_to_steps(fit, loaded, base_model, method, recipe)
        return GroupCells(
            suite=suite,
            loaded=loaded,
            base_model=base_model,
            entry=entry,
            method=method,
            recipe=recipe,
            series=self.series,
            distinct=distinct,
            retention=retention,
            budget=budget,
            fit=fit,
            runs=self.runs,
            data_dir=self.data_dir,
            retained=retained,
        )

    def _await_rate(self, cells: GroupCells, reported: Sequence[Cell]) -> None:
        """Note the reported runs, which wait for the trials; add those with another rate that are asked for by id."""
        recipe = cells.recipe
        among = (*recipe.rates, *_beyond(self.suite, recipe.rates))
        self._add_requested(cell for rate in among for cell in cells.at_rate(rate))
        reason = "the trials that choose their learning rate"
        self.waiting.append(Waiting(tuple(reported), reason, recipe.start))

    def _start_from_adapter(self, cells: GroupCells, rate: float, task: str, adapter: KeptAdapter) -> None:
        """Add the runs that start from an adapter in place of the runs of a task."""
        labels = max(1, len(cells.loaded.data.labels))
        check_fits(adapter.folder, cells.method, cells.base_model, cells.loaded.task.kind_of.model_kind, labels)
        start = Start(task=task, run_id=None, adapter_sha256=adapter.sha256)
        self.cells += [cells.cell(rate, seed, start=start) for seed in self.suite.content.every_seed]

    def _start_from_runs(self, cells: GroupCells, rate: float, task: str, reported: Sequence[Cell]) -> None:
        """Add the runs that start from the runs of a task, or note that they wait for these."""
        place = (task, cells.base_model.name, cells.entry.label, cells.budget.parameter_target, cells.distinct)
        sources = [cell for cell in self.cells if not cell.job.trial and cell.place == place]
        seeds = self.suite.content.every_seed
        started = start_records(self._at_hand(sources), self.suite.rules, seeds)
        if started is None or not sources:
            self.waiting.append(Waiting(tuple(reported), f"the runs of {task}, from which they start", task))
            return
        blocked = f"the run of {task} from which it starts gave no score"
        starts = {seed: Start(task=task, run_id=run_id) for seed, run_id in started.items()}
        self._choose(
            [
                cells.cell(rate, seed, start=starts.get(seed), blocked=None if seed in starts else blocked)
                for seed in seeds
            ]
        )

    def _add_requested(self, possible: Iterable[Cell]) -> None:
        """Add the runs that are asked for by id, among some that may never be needed."""
        if self.only:
            self.cells += [cell for cell in possible if cell.job.run_id in self.only]

    def _choose(self, cells: Sequence[Cell]) -> None:
        self.cells += cells
        self.chosen += cells

    def _at_hand(self, cells: Sequence[Cell]) -> list[Record | None]:
        """Return the records that decide a choice; None for one that decides nothing, which is noted in the plan."""
        self.undecided |= {cell.job.run_id for cell in cells if cell.record is not None and self.untried(cell.record)}
        return [None if cell.job.run_id in self.undecided else cell.record for cell in cells]

    def _tune(self, cells: GroupCells) -> float | None:
        """Add the known trials of a method, rung after rung, and what waits for them. Return the chosen rate, or None yet."""
        tuning = self.suite.content.tuning
        assert tuning is not None, "several rates without tuning are a search"
        rates = cells.recipe.rates
        stages = self._stages(tuning, len(rates))
        going, trials = tuple(rates), list[Cell]()
        for index, (rung, seeds) in enumerate(stages):
            added = [cells.cell(rate, seed, rung=rung) for rate in going for seed in seeds]
            # Only trials with the same work are compared.
            trials = [*(trial for trial in trials if trial.job.rung == added[0].job.rung), *added]
            if rung.part > 1:
                check_first_rung(self.suite, added[0].job.spec, rung)
            if index or tuning.extends:
                self._choose(added)
            else:
                self.cells += added
            later = stages[index + 1 :]
            found = trials_among(self._at_hand(trials), tuning.search)
            if found is None:
                for waits, of_seeds in later:
                    possible = [cells.cell(rate, seed, rung=waits) for rate in rates for seed in of_seeds]
                    self._add_requested(possible)
                    among = tuple(possible[: waits.trials * len(of_seeds)])
                    before = "shorter" if self.suite.content.rungs else "first"
                    reason = f"the {before} trials that choose which learning rates go on"
                    self.waiting.append(Waiting(among, reason, None))
                self._await_extension(cells, stages[-1][0], tuning)
                return None
            going = found.going(later[0][0].trials) if later else (found.chosen,)
        if not tuning.extends:
            return going[0]
        beyond = rate_beyond(rates, going[0])
        if beyond is None or not any(trial.record is not None and trial.record.score is not None for trial in trials):
            return going[0]
        added = [cells.cell(beyond, seed, rung=stages[-1][0], extended=True) for seed in tuning.seeds]
        self._choose(added)
        found = trials_among(self._at_hand([*trials, *added]), tuning.search)
        return None if found is None else found.chosen

    def _stages(self, tuning: Tuning, rates: int) -> list[tuple[Rung, tuple[int, ...]]]:
        """Return the number of rates and the seeds of each stage of a search, the first one first."""
        if self.suite.content.rungs:
            return [(rung, tuning.seeds) for rung in self.suite.content.rungs]
        if tuning.search == "all_seeds":
            return [(Rung(1, rates, 1), tuning.seeds)]
        return [(Rung(1, rates, 1), tuning.seeds[:1]), (Rung(1, half(rates), 1), tuning.seeds[1:])]

    def _await_extension(self, cells: GroupCells, last: Rung, tuning: Tuning) -> None:
        """Note the trials beyond the smallest or the greatest rate, which follow if that rate is the best."""
        beyond = _beyond(self.suite, cells.recipe.rates)
        possible = [cells.cell(rate, seed, rung=last, extended=True) for rate in beyond for seed in tuning.seeds]
        self._add_requested(possible)
        if possible:
            reason = "the other trials, and are left out unless the best learning rate is at the edge of the range"
            self.waiting.append(Waiting(tuple(possible[-len(tuning.seeds) :]), reason, None))


def _beyond(suite: Suite, rates: Sequence[float]) -> tuple[float, ...]:
    """Return the rates by which the suite may extend the range of *rates*."""
    if suite.content.tuning is None or not suite.content.tuning.extends:
        return ()
    return tuple(rate for end in (min(rates), max(rates)) if (rate := rate_beyond(rates, end)) is not None)


def _fitted_to_steps(
    fit: MethodFit, loaded: LoadedTask, base_model: BaseModel, method: Method, recipe: CellRecipe
) -> tuple[MethodFit, CellRecipe]:
    """Return fit and recipe within the budget's limits of a step, memory and countable FLOPs; else the fit has the reason."""
    budget, training = recipe.budget, recipe.training
    kind, labels = loaded.task.kind_of.model_kind, max(1, len(loaded.data.labels))
    from lora_bench.models.base_precision import NOT_IN_FLOAT16

    try:
        if training.base_precision == "float16" and fit.parameters and fit.parameters.trained == fit.parameters.total:
            raise UnsupportedPair(NOT_IN_FLOAT16)
        if budget.peak_memory_bytes is not None:
            rows = micro_batch(base_model, method, training, budget.peak_memory_bytes, kind=kind, labels=labels)
            if rows < training.batch_size:
                parts: dict[str, JsonValue] = {"gradient_accumulation_steps": training.batch_size // rows}
                recipe = replace(recipe, arguments={**recipe.arguments, **parts})
        if budget.uses("train_flops"):
            accumulation = int(recipe.arguments.get("gradient_accumulation_steps", 1))  # type: ignore[arg-type]  # checked
            rows = training.batch_size // accumulation
            step_flops(base_model, method, kind=kind, labels=labels, rows=rows, length=training.max_length)
    except (UnsupportedPair, BudgetUnreachable) as reason:
        fit = _refused(fit, str(reason))
    return fit, recipe


def _refused(fit: MethodFit, reason: str) -> MethodFit:
    return fit.model_copy(update={"reason": reason, "parameters": None, "shape": None})
