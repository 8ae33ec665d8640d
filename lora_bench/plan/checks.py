"""Checks of a plan that need data, base models, parameter counts or transformers."""

from __future__ import annotations

import dataclasses

from lora_bench.errors import BadInput, Fault, LoraBenchError, did_you_mean, first_line
from lora_bench.methods import loss_term
from lora_bench.models.registry import BaseModel
from lora_bench.plan.cell import Cell
from lora_bench.records.budget import WORK, ParameterAxis, amount_of
from lora_bench.records.spec import PlannedSpec
from lora_bench.suite.entries import MethodEntry
from lora_bench.suite.halving import Rung
from lora_bench.suite.load_suite import CellRecipe, Suite
from lora_bench.suite.validate_suite import masks_misfit, ranks_misfit, schedule_misfit, wanted_trials
from lora_bench.tasks import Task


def check_rates(suite: Suite, recipe: CellRecipe, task: str, base_model: BaseModel, entry: MethodEntry) -> None:
    """Check that every method has the number of trials that the budget gives."""
    trials, rungs = recipe.budget.trials, suite.content.rungs
    if trials is not None and len(recipe.rates) != (rungs[0].trials if rungs else trials):
        raise BadInput(
            [
                suite.document.fault(
                    ("budget", "trials"),
                    f"{wanted_trials(suite.content)}, but {entry.label} on {base_model.name} for {task} has "
                    f"{len(recipe.rates)} learning rates",
                )
            ]
        )


def check_first_rung(suite: Suite, spec: PlannedSpec, rung: Rung) -> None:
    """Check that the shortest runs of a halving do at least a whole batch, if the work tells it before the data."""
    training = spec.training
    axis, amount = training.target
    if WORK[axis].whole and amount < training.batch_size:
        message = (
            f"begins with runs of {amount_of(axis, amount)} for {spec.method.label} on {spec.model.name} for {spec.task.name}, "
            f"less than a batch of {training.batch_size}: take fewer rungs, or {axis}: {training.batch_size * rung.part}"
        )
        raise BadInput([suite.document.fault(("tuning", "halving"), message)])


def check_schedule(suite: Suite, recipe: CellRecipe, task: str, base_model: BaseModel, entry: MethodEntry) -> None:
    """Check that schedule, processes and masks of a cell fit its budget and batch."""
    misfit = (
        schedule_misfit(recipe.budget, recipe.training)
        or ranks_misfit(recipe.budget, recipe.training, recipe.arguments)
        or masks_misfit(recipe.training, recipe.arguments)
    )
    if misfit is not None:
        where = f"{entry.label} on {base_model.name} for {task}: {misfit[0]}"
        raise BadInput([suite.document.fault(("recipes",), f"{where} {misfit[1]}")])


def check_loss(suite: Suite, recipe: CellRecipe, task: Task, base_model: BaseModel, entry: MethodEntry) -> None:
    """Refuse label smoothing with a method that adds to the model's own loss: the smoothed loss takes its place."""
    term = loss_term(entry.method)
    # Regression has no labels to smooth.
    if term is not None and recipe.training.label_smoothing and task.kind != "regression":
        share = recipe.training.label_smoothing
        message = (
            f"{entry.label} on {base_model.name} for {task.task}: label_smoothing {share:g} takes the place of the model's own "
            f"loss, to which {term} is added: set one of the two to 0"
        )
        raise BadInput([suite.document.fault(("recipes",), message)])


def check_recipe(suite: Suite, cells: list[Cell], models: list[BaseModel]) -> None:
    """Check the Trainer's own arguments and the tokenizers, which only transformers can judge, before any work."""
    from transformers import TrainingArguments

    from lora_bench.models.loading import load_tokenizer
    from lora_bench.training.trainer_arguments import training_arguments

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
            first = first_line(error)
            faults.append(suite.document.fault(("training_arguments",), first))
    for index, base_model in enumerate(models):
        try:
            load_tokenizer(base_model)
        except LoraBenchError as error:
            faults.append(suite.document.fault(("models", index), str(error)))
    if faults:
        raise BadInput(faults)


def refuse_twins(suite: Suite, cells: list[Cell]) -> None:
    """Refuse two cells that are the same run under two names: they would share one record."""
    first: dict[str, Cell] = {}
    faults: dict[Fault, None] = {}
    for cell in cells:
        other = first.setdefault(cell.job.run_id, cell)
        if other is cell:
            continue
        one, two = other.job.budget.parameter_target, cell.job.budget.parameter_target
        if one is not None and two is not None and one != two:
            size = f"{cell.job.spec.method.size} {cell.fit.size}"
            message = f"{one[1]:,} and {two[1]:,} both give {_named(cell)} the {size}: choose targets further apart"
            faults[suite.document.fault(("budget", two[0]), message)] = None
        else:
            message = f"{_named(other)} and {_named(cell)} are the same runs under two names"
            faults[suite.document.fault(("methods",), message)] = None
    if faults:
        raise BadInput(faults)


def _named(cell: Cell) -> str:
    spec = cell.job.spec
    return f"{spec.method.label!r} on {spec.model.name!r} for {spec.task.name!r}"


def refuse_unreachable(suite: Suite, cells: list[Cell]) -> None:
    """Refuse a budget that only the reference meets: a mistake in the suite, not a row of its report."""
    by_target: dict[tuple[ParameterAxis, int], list[Cell]] = {}
    for cell in cells:
        target = cell.job.budget.parameter_target
        if target is not None and cell.job.spec.method.size is not None:
            by_target.setdefault(target, []).append(cell)
    faults = {
        suite.document.fault(
            ("budget", axis), f"{cell.job.spec.method.label} on {cell.job.spec.model.name}: {cell.reason}"
        ): None
        for (axis, _), sized in by_target.items()
        if all(cell.reason is not None for cell in sized)
        for cell in sized
    }
    if faults:
        raise BadInput(faults)
