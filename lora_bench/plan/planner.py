"""The runs of a task, base model, method and budget: its trials and, once these have records, its reported runs."""

from __future__ import annotations

import dataclasses
import functools
import shlex
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Protocol

from pydantic import JsonValue

from lora_bench.errors import BudgetUnreachable, UnsupportedPair
from lora_bench.methods import Method, with_size
from lora_bench.models.loading import reads_apart
from lora_bench.models.registry import BaseModel
from lora_bench.plan.cell import Cell, Waiting
from lora_bench.plan.checks import (
    check_first_rung,
    check_loss,
    check_rates,
    check_schedule,
)
from lora_bench.plan.cost_estimate import CostEstimate, estimate_run
from lora_bench.plan.inputs import LoadedTask, Progress
from lora_bench.plan.micro_batch import micro_batch
from lora_bench.plan.resolve import run_spec
from lora_bench.plan.retention_data import Retentions
from lora_bench.plan.selection import best_rates, rate_beyond, start_records
from lora_bench.plan.size_fitting import MethodFit, check_fits, fit_method
from lora_bench.records.budget import Budget
from lora_bench.records.record import Record
from lora_bench.records.spec import PlannedSpec, Start
from lora_bench.records.store import RunFolder
from lora_bench.suite.entries import MethodEntry
from lora_bench.suite.halving import Rung
from lora_bench.suite.load_suite import CellRecipe, Suite
from lora_bench.suite.schema import Tuning
from lora_bench.training.job import Job
from lora_bench.training.measure.flops import step_flops


class MakeCell(Protocol):
    """Makes a run of a task, base model, method and budget."""

    def __call__(self, rate: float, seed: int, *, rung: Rung | None = None, extended: bool = False) -> Cell:
        """Return the run with a learning rate and a seed; with a rung, the trial of that rung."""


class Planner:
    """Plans the runs of one task, base model and method after another.

    Args:
        suite: The suite.
        runs: Folder of this suite's runs.
        series: Label of a repeat.
        data_dir: Folder with data sets.
        only: Ids of the requested runs.
        progress: Called with a sentence before slow work.
        untried: Returns True if a record decides nothing, because its run must be repeated.
        retention: Data for retention, by base model.
    """

    def __init__(
        self,
        suite: Suite,
        runs: Path,
        series: str | None,
        data_dir: Path | None,
        only: Collection[str],
        progress: Progress | None,
        untried: Callable[[Record], bool],
        retention: Retentions,
    ) -> None:
        self.retention = retention
        self.suite = suite
        self.runs = runs
        self.series = series
        self.data_dir = data_dir
        self.only = only
        self.progress = progress
        self.untried = untried
        self.cells: list[Cell] = []
        self.waiting: list[Waiting] = []
        self.chosen: list[Cell] = []
        self.undecided: set[str] = set()
        self.fits: dict[str, MethodFit] = {}

    def add(
        self, loaded: LoadedTask, base_model: BaseModel, entry: MethodEntry, budget: Budget, distinct: int | None
    ) -> None:
        """Add the runs of a task, base model, method and budget: its trials and, once these are done, its reported runs.

        Args:
            loaded: The task with its data.
            base_model: The base model.
            entry: The method.
            budget: One of its budgets.
            distinct: Number of different training rows; None for all.
        """
        suite, name, adapter = self.suite, loaded.task.task, self.suite.adapter
        retention, held = self.retention.get(base_model.name, (None, None))
        recipe = suite.recipe(name, base_model.name, entry, budget)
        check_rates(suite, recipe, name, base_model, entry)
        check_schedule(suite, recipe, name, base_model, entry)
        check_loss(suite, recipe, loaded.task, base_model, entry)
        fit = fit_method(
            entry.method,
            base_model,
            loaded.task.model_kind,
            len(loaded.data.labels),
            recipe.budget,
            self.progress,
            self.fits,
        )
        if fit.reason is None and loaded.task.kind == "chat" and reads_apart(base_model.model_type):
            fit = _refused(
                fit, f"a chat is one text, which {base_model.model_type} does not continue: use a causal model"
            )
        method = with_size(entry.method, fit.size) if fit.size is not None else entry.method
        if fit.reason is None:
            fit, recipe = _fitted_to_steps(fit, loaded, base_model, method, recipe)

        # Runs that differ only in their seed share all other parts of their specs, and cost the same.
        @functools.cache
        def of_any_seed(rate: float, rung: Rung | None) -> tuple[PlannedSpec, CostEstimate]:
            spec = run_spec(
                suite, loaded.task, loaded.data, base_model, entry, method, recipe, rate, 0,
                trial=rung is not None, part=1 if rung is None else rung.part, distinct=distinct,
                start=None, series=self.series, retention=retention,
            )  # fmt: skip
            return spec, estimate_run(spec, fit, loaded.data)

        def cell(
            rate: float,
            seed: int,
            *,
            rung: Rung | None = None,
            extended: bool = False,
            start: Start | None = None,
            blocked: str | None = None,
        ) -> Cell:
            spec, estimate = of_any_seed(rate, rung)
            spec = spec.model_copy(update={"seed": seed, "start": start})
            if fit.reason is not None or blocked is not None:
                several = len(suite.budgets(entry)) > 1
                spec = _not_to_be_run(spec, fit.reason or blocked or "", budget if several else None)
            run_id = spec.run_id
            folder = RunFolder(self.runs / run_id)
            job = Job(
                spec=spec,
                suite=suite.name,
                budget=recipe.budget,
                task=loaded.task,
                task_base=loaded.base,
                base_model=base_model,
                folder=folder,
                command=_command(suite, spec.model.name, run_id, self.series, self.data_dir),
                trial=rung is not None,
                analysis=suite.analysis,
                rung=rung.number if rung is not None and suite.content.rungs else None,
                extended=extended,
                adapter=adapter.folder if start is not None and start.run_id is None and adapter is not None else None,
                retention=held if spec.retention is not None else None,
            )
            return Cell(job, fit, folder.record(), estimate, blocked)

        rates, seeds = recipe.rates, suite.content.every_seed
        reported = [cell(rates[0], seed) for seed in seeds]
        tuned = suite.content.tuning is not None and len(rates) > 1
        if fit.reason is not None or not (tuned or recipe.start is not None):
            # A search reports every rate; a pair that does not work is one row for all rates.
            more = (
                [cell(rate, seed) for rate in rates[1:] for seed in seeds] if fit.reason is None and not tuned else []
            )
            self.cells += [*reported, *more]
            return

        rate = rates[0]
        if tuned:
            chosen = self._tune(cell, rates, loaded.task.higher_is_better)
            if chosen is None:
                among = (*rates, *_beyond(suite, rates))
                possible = [cell(rate, seed) for rate in among for seed in seeds] if self.only else []
                self.cells += [one for one in possible if one.job.run_id in self.only]
                reason = "the trials that choose their learning rate"
                self.waiting.append(Waiting(tuple(reported), reason, recipe.start))
                return
            rate = chosen
        if recipe.start is None:
            self._choose([cell(rate, seed) for seed in seeds])
            return
        if adapter is not None:
            check_fits(adapter.folder, method, base_model, loaded.task.model_kind, max(1, len(loaded.data.labels)))
            start = Start(task=recipe.start, run_id=None, adapter_sha256=adapter.sha256)
            self.cells += [cell(rate, seed, start=start) for seed in seeds]
            return
        sources = [
            one
            for one in self.cells
            if not one.trial and _is_at(one, recipe.start, base_model.name, entry.label, budget, distinct)
        ]
        found = start_records(self._at_hand(sources), suite.rules, seeds)
        if found is None or not sources:
            reason = f"the runs of {recipe.start}, from which they start"
            self.waiting.append(Waiting(tuple(reported), reason, recipe.start))
            return
        blocked = f"the run of {recipe.start} from which it starts gave no score"
        self._choose(
            [
                cell(rate, seed, start=Start(task=recipe.start, run_id=found[seed]))
                if seed in found
                else cell(rate, seed, blocked=blocked)
                for seed in seeds
            ]
        )

    def _choose(self, cells: Sequence[Cell]) -> None:
        """Add runs that depend on the records of others."""
        self.cells += cells
        self.chosen += cells

    def _at_hand(self, cells: Sequence[Cell]) -> list[Record | None]:
        """Return the records that decide a choice; None for one that decides nothing, which is noted in the plan."""
        self.undecided |= {cell.job.run_id for cell in cells if cell.record is not None and self.untried(cell.record)}
        return [None if cell.job.run_id in self.undecided else cell.record for cell in cells]

    def _tune(self, cell: MakeCell, rates: Sequence[float], higher_is_better: bool) -> float | None:
        """Add the trials of a method as far as they are known, rung after rung, and the runs that wait for them.

        Returns:
            The chosen learning rate, or None while a record is missing.
        """
        tuning = self.suite.content.tuning
        assert tuning is not None, "several rates without tuning are a search"
        rungs = self.suite.content.rungs or (Rung(1, len(rates), 1),)
        going = tuple(rates)
        for index, rung in enumerate(rungs):
            trials = [cell(rate, seed, rung=rung) for rate in going for seed in tuning.seeds]
            if rung.part > 1:
                check_first_rung(self.suite, trials[0].job.spec, rung)
            if index or tuning.extends:
                self._choose(trials)
            else:
                self.cells += trials
            later = rungs[index + 1 :]
            best = best_rates(self._at_hand(trials), higher_is_better, later[0].trials if later else 1)
            if best is None:
                for waits in later:
                    possible = [cell(rate, seed, rung=waits) for rate in rates for seed in tuning.seeds]
                    self.cells += [one for one in possible if one.job.run_id in self.only]
                    among = tuple(possible[: waits.trials * len(tuning.seeds)])
                    reason = "the shorter trials that choose which learning rates go on"
                    self.waiting.append(Waiting(among, reason, None))
                self._await_extension(cell, rates, rungs[-1], tuning)
                return None
            going = best
        if not tuning.extends:
            return going[0]
        beyond = rate_beyond(rates, going[0])
        if beyond is None or not any(trial.record is not None and trial.record.score is not None for trial in trials):
            return going[0]
        trials += [cell(beyond, seed, rung=rungs[-1], extended=True) for seed in tuning.seeds]
        self._choose(trials[-len(tuning.seeds) :])
        best = best_rates(self._at_hand(trials), higher_is_better, 1)
        return None if best is None else best[0]

    def _await_extension(self, cell: MakeCell, rates: Sequence[float], last: Rung, tuning: Tuning) -> None:
        """Note the trials beyond the smallest or the greatest rate, which follow if that rate is the best."""
        possible = [
            cell(rate, seed, rung=last, extended=True) for rate in _beyond(self.suite, rates) for seed in tuning.seeds
        ]
        self.cells += [one for one in possible if one.job.run_id in self.only]
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
    """Return the fit and the recipe with the step limits of the budget: a peak of memory, and FLOPs that can be counted.

    If a limit cannot be met, the fit has the reason.
    """
    budget, training = recipe.budget, recipe.training
    kind, labels = loaded.task.model_kind, max(1, len(loaded.data.labels))
    try:
        if budget.peak_memory_bytes is not None:
            rows = micro_batch(base_model, method, training, budget.peak_memory_bytes, kind=kind, labels=labels)
            if rows < training.batch_size:
                parts: dict[str, JsonValue] = {"gradient_accumulation_steps": training.batch_size // rows}
                recipe = dataclasses.replace(recipe, arguments={**recipe.arguments, **parts})
        if budget.uses("train_flops"):
            accumulation = int(recipe.arguments.get("gradient_accumulation_steps", 1))  # type: ignore[arg-type]  # checked
            rows = training.batch_size // accumulation
            step_flops(base_model, method, kind=kind, labels=labels, rows=rows, length=training.max_length)
    except (UnsupportedPair, BudgetUnreachable) as reason:
        fit = _refused(fit, str(reason))
    return fit, recipe


def _refused(fit: MethodFit, reason: str) -> MethodFit:
    return fit.model_copy(update={"reason": reason, "parameters": None, "shape": None})


def _is_at(cell: Cell, task: str, model: str, label: str, budget: Budget, distinct: int | None) -> bool:
    return cell.place == (task, model, label, budget.parameter_target, distinct)


def _not_to_be_run(spec: PlannedSpec, reason: str, budget: Budget | None) -> PlannedSpec:
    """Return a spec whose id contains the reason why it cannot run. If the reason changes, the old record is not reused.

    With *budget* it also contains the target, because a suite may have several with the same reason.
    """
    chosen = {**spec.method.chosen, "unsupported": reason}
    if budget is not None and budget.parameter_target is not None:
        axis, target = budget.parameter_target
        chosen[axis] = target
    return spec.model_copy(update={"method": spec.method.model_copy(update={"chosen": chosen})})


def _command(suite: Suite, model: str, run_id: str, series: str | None, data_dir: Path | None) -> str:
    """Return the command that makes the record again."""
    options = ["--series", series] if series is not None else []
    if data_dir is not None:
        options += ["--data-dir", data_dir.name if data_dir.is_absolute() else str(data_dir)]
    options += ["--allow-pickle", model] if model in suite.pickles else []
    options += [part for permission in sorted(suite.code) for part in ("--allow-code", permission)]
    return shlex.join(["lora-bench", *suite.command, "--only", run_id, *options])
