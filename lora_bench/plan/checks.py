"""Checks of a plan that need data, base models, parameter counts or transformers."""

import dataclasses
import itertools
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from pydantic import JsonValue

from lora_bench.errors import BadInput, Fault, LoraBenchError, did_you_mean, first_line, refuse
from lora_bench.kinds import known_kinds
from lora_bench.methods import loss_term, rates_to_try
from lora_bench.models.loading import reads_apart
from lora_bench.models.registry import BaseModel
from lora_bench.plan.cell import Cell
from lora_bench.plan.counted_step import memory_beyond
from lora_bench.plan.inputs import LoadedTask
from lora_bench.plan.size_fitting import installed_bytes
from lora_bench.records.budget import WORK, ParameterAxis, amount_of
from lora_bench.records.environment import described_devices
from lora_bench.records.spec import PlannedSpec
from lora_bench.report.text import learning_rate
from lora_bench.suite import validate_suite
from lora_bench.suite.entries import MethodEntry
from lora_bench.suite.halving import Rung
from lora_bench.suite.load_suite import CellRecipe, Suite
from lora_bench.tasks import Task
from lora_bench.training.step_plan import ENDLESS
from lora_bench.util.regular_files import MIB

if TYPE_CHECKING:
    from transformers import TrainingArguments


# Best rates of a base model whose width differs by more say little.
NEAR_WIDTH = 1.5


def check_cell(suite: Suite, recipe: CellRecipe, task: str, base_model: BaseModel, entry: MethodEntry) -> None:
    """Check that trials, schedule, processes and masks of a cell fit the suite, its budget and its batch."""
    where = f"{entry.label} on {base_model.name} for {task}"
    if recipe.budget.trials is not None and len(recipe.rates) != validate_suite.rates_wanted(suite.content):
        message = f"{validate_suite.wanted_trials(suite.content)}, but {where} has {len(recipe.rates)} learning rates"
        raise BadInput([suite.document.fault(("budget", "trials"), message)])
    for key, why in validate_suite.misfits(recipe.budget, recipe.training, recipe.arguments):
        raise BadInput([suite.document.fault(("recipes",), f"{where}: {key} {why}")])


def untuned(suite: Suite, tasks: list[LoadedTask], models: list[BaseModel]) -> list[str]:
    """Return a warning if no method chooses a learning rate on some of the tasks: a bad rate can reverse the order."""
    tuned = suite.content.score_on != "test" or suite.content.budget.tuned_in is not None
    if tuned or suite.command[:1] == ("reproduce",):
        return []  # a search, or rates that one chose; and a published table says the rates of its rows
    names = [
        loaded.task.task
        for loaded in tasks
        if len(suite.methods) > 1
        and all(len(rates) == 1 for model in models for rates in _tried(suite, loaded.task.task, model).values())
        and not all(_likely(suite, loaded.task.task, base_model) for base_model in models)
    ]
    if not names:
        return []
    on = "" if len(names) == len(tasks) else f" on {', '.join(names)}"
    return [
        f"no learning rate is tuned{on}: each method runs at the one given, and another may change the order of the methods; "
        "give each several (ranges: `lora-bench list methods`) and `tuning: {seeds: [100, 101]}`"
    ]


def suggested_rates(suite: Suite, cells: Iterable[Cell]) -> list[str]:
    """Return for each base model the best rates in our searches of the methods that run at their own rate."""
    found: dict[tuple[str, int], dict[str, str]] = {}
    entries = {entry.label: entry for entry in suite.methods}
    for cell in cells:
        spec, entry = cell.job.spec, entries[cell.job.spec.method.label]
        method, model = type(entry.method), cell.job.base_model.name
        own = not {model, None} & entry.learning_rates.keys() and spec.training.learning_rate == method.learning_rate
        rates = getattr(method, "searched_rates", {}) if entry.label == method.name else {}
        if not own or not rates or cell.fit.shape is None:
            continue
        wide = cell.fit.shape.width
        width = min(rates, key=lambda one: abs(math.log(one / wide)))
        if 1 / NEAR_WIDTH <= width / wide <= NEAR_WIDTH:
            best, *between = map(learning_rate, rates[width])
            shown = best if len({*between}) == 1 else f"{best} ({' to '.join(between)})"
            found.setdefault((model, width), {})[entry.label] = f"{entry.label} {shown}"
    return [
        f"{model}: no learning rate is given, so methods run at their own; our searches at width {width} chose "
        f"{', '.join(shown.values())}, and other data may need another: try three"
        for (model, width), shown in found.items()
    ]


def _likely(suite: Suite, task: str, base_model: BaseModel) -> bool:
    """Return True if all methods run at the rates that our searches found likely, as in a suite of `try` for few minutes."""
    likely = {label: {float(of_size[0]) for of_size in rates} for label, rates in rates_to_try().items()}
    return all(set(rates) <= likely.get(label, set()) for label, rates in _tried(suite, task, base_model).items())


def coarse_tuning(suite: Suite) -> list[str]:
    """Return a warning if learning rates are chosen by one seed."""
    tuning = suite.content.tuning
    if tuning is None or len(tuning.seeds) > 1:
        return []
    return ["learning rates are chosen by the scores of one seed: give `tuning: {seeds: [100, 101]}` or more"]


def _tried(suite: Suite, task: str, base_model: BaseModel) -> dict[str, tuple[float, ...]]:
    """Return the learning rates of each method on a task and base model, by label."""
    return {
        entry.label: suite.recipe(task, base_model.name, entry).rates
        for entry in suite.methods
        if entry.is_for(task, base_model.name)
    }


def check_equal_trials(suite: Suite, tasks: list[LoadedTask], models: list[BaseModel]) -> list[str]:
    """Refuse unequal numbers of rates, as more trials look better; warn of a method with one beside others that are tuned."""
    if suite.content.tuning is None or suite.content.budget.trials is not None:
        return []  # `check_cell` compares with the number of trials
    faults: dict[Fault, None] = {}
    warnings = []
    for task, base_model in itertools.product((loaded.task for loaded in tasks), models):
        tried = {label: len(rates) for label, rates in _tried(suite, task.task, base_model).items()}
        tuned = {label: count for label, count in tried.items() if count > 1}
        if len(set(tuned.values())) > 1:
            shown = ", ".join(f"{label} has {count}" for label, count in tuned.items())
            message = f"tuning gives every method equally many learning rates, but {shown}; make the lists equally long"
            faults[suite.document.fault(("tuning",), message)] = None
        elif tuned and len(tuned) < len(tried):
            alone = ", ".join(label for label in tried if label not in tuned)
            warnings.append(
                f"{task.task}: {alone} runs on {base_model.name} at the one learning rate given, beside methods that choose "
                f"among {max(tuned.values())}"
            )
    refuse(faults)
    return warnings


def check_distinct(suite: Suite, loaded: LoadedTask, distinct: int | None) -> None:
    """Check that the training split has so many different rows, and classes for an even draw."""
    if suite.content.distinct_draw == "even" and not loaded.task.kind_of.weighs_classes:
        message = f"draws as many rows of each class, and {loaded.task.task} has no classes"
        raise BadInput([suite.document.fault(("distinct_draw",), message)])
    rows = min([len(loaded.data.splits["train"].ids), *(sizes["train"] for sizes in loaded.data.folds)])
    if distinct is not None and distinct > rows:
        message = f"{distinct:,} is more than the {rows:,} training rows of {loaded.task.task}"
        raise BadInput([suite.document.fault(("distinct_examples",), message)])


def check_folds(suite: Suite, loaded: LoadedTask) -> None:
    """Refuse reported seeds that test one fold twice: the second run says nothing of other rows."""
    first: dict[int | None, int] = {}
    for seed in suite.content.every_seed if suite.content.score_on == "test" and loaded.task.folds else ():
        fold = loaded.task.fold_of(seed)
        if first.setdefault(fold, seed) != seed:
            message = (
                f"has {first[fold]} and {seed}, which both test fold {fold} of {loaded.task.task}: its {loaded.task.folds} "
                f"folds take as many seeds, such as {list(range(loaded.task.folds or 0))}, and more seeds take more `folds`"
            )
            raise BadInput([suite.document.fault(("seeds",), message)])


def unseen_rows(cells: Iterable[Cell]) -> list[str]:
    """Return a warning if runs end before they saw all their different rows: more rows than that change nothing."""
    specs = [cell.job.spec.training for cell in cells if not cell.short]
    limits = [(spec.distinct_examples or 0, spec.target[1]) for spec in specs if spec.target[0] == "train_examples"]
    unseen = sorted({number for number, seen in limits if number > seen})
    if not unseen:
        return []
    numbers = " or ".join(f"{number:,}" for number in unseen)
    return [f"runs end before they saw {numbers} different rows: raise `train_examples` to {unseen[-1]:,}"]


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


def check_loss(suite: Suite, recipe: CellRecipe, task: Task, base_model: BaseModel, entry: MethodEntry) -> None:
    """Refuse class weights and shared rows for other kinds, and a loss in place of the model's own beside a method's term."""
    term, cell = loss_term(entry.method), f"{entry.label} on {base_model.name} for {task.task}"
    if recipe.training.class_weights is not None and not task.kind_of.weighs_classes:
        weighing = " and ".join(name for name, kind in known_kinds().items() if kind.weighs_classes)
        message = f"class_weights is for {weighing}, and the kind of {task.task} is {task.kind}"
        raise BadInput([suite.document.fault(("training", "class_weights"), message)])
    if recipe.training.sample_packing and (not task.writes or reads_apart(base_model.model_type)):
        message = f"sample_packing is for texts that a causal model writes, which {cell} has not"
        raise BadInput([suite.document.fault(("training", "sample_packing"), message)])
    given = {
        f"label_smoothing {recipe.training.label_smoothing:g}": recipe.training.label_smoothing
        and task.kind_of.smooths,
        "class_weights": recipe.training.class_weights,
        f"the loss of {task.kind}": task.kind_of.own_loss,
    }
    for name in [name for name, is_given in given.items() if is_given and term is not None]:
        message = f"{cell}: {name} takes the place of the model's own loss, to which {term} is added: leave one of the two out"
        raise BadInput([suite.document.fault(("recipes",), message)])


def check_recipe(suite: Suite, cells: list[Cell], models: list[BaseModel]) -> None:
    """Check the Trainer's own arguments and the tokenizers, which only transformers can judge, before any work."""
    from transformers import TrainingArguments

    from lora_bench.models.loading import load_tokenizer
    from lora_bench.training.trainer import training_arguments

    faults: list[Fault] = []
    known = {field.name: field for field in dataclasses.fields(TrainingArguments) if field.init}
    for name, value in suite.content.training_arguments.items():
        key = ("training_arguments", name)
        if name not in known:
            faults.append(suite.document.fault(key, f"unknown key{did_you_mean(name, known)}"))
        elif isinstance(known[name].default, int | float) and not isinstance(value, int | float):
            kind = type(known[name].default).__name__
            faults.append(suite.document.fault(key, f"must be {kind}, got {value!r} ({type(value).__name__})"))
        elif name == "dataloader_num_workers" and isinstance(value, int | float) and value < 0:
            faults.append(suite.document.fault(key, f"must be 0 or more, got {value!r}"))
    if not faults:
        tried: list[dict[str, JsonValue]] = []
        for cell in cells:
            if cell.job.spec.training.arguments not in tried:
                tried.append(cell.job.spec.training.arguments)
                try:
                    _try_optimizer(training_arguments(cell.job.spec, "nowhere"))
                except (ValueError, TypeError, ImportError) as error:
                    faults.append(suite.document.fault(("training_arguments",), first_line(error)))
    most = max((cell.job.spec.training.train_examples or 0 for cell in cells), default=0)
    if most > ENDLESS:  # more than can be counted
        axis = "epochs" if suite.content.budget.epochs is not None else "train_examples"
        message = f"comes to {most:.3g} examples; at most {ENDLESS:.3g} are seen"
        faults.append(suite.document.fault(("budget", axis), message))
    for index, base_model in enumerate(models):
        if not base_model.has_weights:
            continue  # a shape has no tokenizer
        try:
            load_tokenizer(base_model)
        except LoraBenchError as error:
            faults.append(suite.document.fault(("models", index), str(error)))
    refuse(faults)


def _try_optimizer(arguments: "TrainingArguments") -> None:
    """Make the optimiser for one weight, which looks at its own numbers and may refuse them."""
    import torch
    from transformers import Trainer

    if arguments.optim_target_modules is None:  # else it looks for parts of the model
        optimizer, options = Trainer.get_optimizer_cls_and_kwargs(arguments)
        optimizer([torch.nn.Parameter(torch.zeros(1))], **options)


def beyond_memory(cells: list[Cell]) -> list[str]:
    """Return a warning for each method that is likely to need more memory than the device of its runs has."""
    devices = described_devices()
    memory, where = (devices[0].memory_bytes, devices[0].name) if devices else (installed_bytes(), "this machine")
    needed: dict[str, int] = {}
    # Runs that differ in their seed or rate alone have the same step.
    different = {(_named(cell), str(cell.job.spec.method.options)): cell for cell in cells if cell.record is None}
    for (named, _), cell in different.items():
        need = memory_beyond(cell, memory, cuda=bool(devices)) if cell.reason is None else None
        if need is not None:
            needed[named] = max(needed.get(named, 0), need)
    return [
        f"{named} is likely not to fit: it needs about {need / MIB:,.0f} MiB, and {where} has {memory / MIB:,.0f} MiB"
        for named, need in needed.items()
    ]


def refuse_twins(suite: Suite, cells: list[Cell]) -> None:
    """Refuse two cells that are the same run under two names: they would share one record."""
    first: dict[str, Cell] = {}
    faults: dict[Fault, None] = {}
    for cell in cells:
        other = first.setdefault(cell.job.run_id, cell)
        if other is cell:
            continue
        theirs, mine = other.job.budget.parameter_target, cell.job.budget.parameter_target
        if theirs is not None and mine is not None and theirs != mine:
            size = f"{cell.job.spec.method.size} {cell.fit.size}"
            message = f"{theirs[1]:,} and {mine[1]:,} both give {_named(cell)} the {size}: choose targets further apart"
            faults[suite.document.fault(("budget", mine[0]), message)] = None
        else:
            message = f"{_named(other)} and {_named(cell)} are the same runs under two names"
            faults[suite.document.fault(("methods",), message)] = None
    refuse(faults)


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
    refuse(faults)
