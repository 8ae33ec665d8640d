"""Resolve a cell of a suite to its run spec: every name, default and fraction becomes a value."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import JsonValue
from pydantic.fields import FieldInfo

from lora_bench.families import given_keys
from lora_bench.methods import Method
from lora_bench.metrics import find
from lora_bench.models.registry import BaseModel
from lora_bench.plan.inputs import LoadedTask
from lora_bench.records import spec
from lora_bench.records.budget import AXES, WORK, Axis, Budget, Caps, UntilPlateau
from lora_bench.suite.entries import MethodEntry
from lora_bench.suite.load_suite import CellRecipe, Suite
from lora_bench.suite.schema import Training
from lora_bench.tasks import definition

# Of a run that ends at a plateau: the fewest steps between two scores, and the spacings whose share `warmup` is. At the
# default of 0.1 the warm-up ends with the first score.
LEAST_SPACING, WARMUP_SPACINGS = 20, 10
# Patience with a run that has not risen yet, as a multiple of that with one that has.
FIRST_PATIENCE = 3


@dataclass(frozen=True, kw_only=True)
class RunGroup:
    """What the runs of a task, base model, method and budget share, whatever their learning rate and seed.

    Args:
        method: The method with the size that meets the budget.
        distinct: Number of different training rows; None for all.
        retention: Data for their retention, if the suite asks for it; a trial has none.
    """

    suite: Suite
    loaded: LoadedTask
    base_model: BaseModel
    entry: MethodEntry
    method: Method
    recipe: CellRecipe
    series: str | None
    distinct: int | None = None
    retention: spec.Retention | None = None


def run_spec(
    group: RunGroup,
    learning_rate: float,
    seed: int,
    *,
    trial: bool = False,
    part: int = 1,
    start: spec.Start | None = None,
) -> spec.PlannedSpec:
    """Return the run spec of a cell of a suite.

    A *trial* chooses a learning rate, and is scored on the split for choices. Its work is divided by *part*, as in the first
    rungs of a halving; its schedule has the length of the part.
    """
    suite, task, data, recipe = group.suite, group.loaded.task, group.loaded.data, group.recipe
    in_split = len(data.splits["train"].ids) if group.distinct is None else group.distinct
    every = recipe.selection_every
    if every is None and recipe.budget.plateau is not None:
        every = max(LEAST_SPACING, math.ceil(in_split / recipe.training.batch_size / 2))
    training = _training(recipe, learning_rate, in_split, part, task.metric, every)
    if group.distinct is not None:
        by, draw = suite.content.distinct_seed, suite.content.distinct_draw
        drawn = {
            "distinct_examples": group.distinct,
            "distinct_seed": None if by == "run" else by,
            "distinct_draw": draw,
        }
        training = training.model_copy(update=drawn)
    if not task.kind_of.smooths:
        # A number, a place, or each of several labels has no others over which its probability could be spread.
        training = training.model_copy(update={"label_smoothing": 0.0})
    if every is None and suite.rules.checkpoint == "best":
        # The papers evaluate after every epoch.
        every = math.ceil(in_split / training.batch_size)
    return spec.PlannedSpec(
        task=spec.PlannedTask(
            name=task.task,
            definition=definition(task),
            data_sha256=data.sha256,
            labels=data.labels,
            metric=task.metric,
            higher_is_better=task.higher_is_better,
        ),
        model=model_spec(group.base_model),
        method=method_spec(group.entry.label, group.method),
        training=training,
        seed=seed,
        protocol=suite.protocol,
        score_on=suite.rules.choose_on if trial else suite.content.score_on,
        selection_every=every if recipe.budget.plateau or not trial or suite.rules.checkpoint == "best" else None,
        keep_weights="none" if trial else _kept(suite, task.task),
        series=group.series,
        rules=suite.rules,
        decoding=recipe.decoding if task.completes else None,
        start=start,
        retention=None if trial else group.retention,
    )


def model_spec(base_model: BaseModel) -> spec.PlannedModel:
    """Return the spec of a base model."""
    given = base_model.family
    return spec.PlannedModel(
        name=base_model.name if not Path(base_model.name).is_absolute() else Path(base_model.name).name,
        shown=base_model.shown,
        sha256=base_model.sha256,
        revision=base_model.revision,
        model_type=base_model.model_type,
        family=None if given is None else "inferred" if base_model.inferred else given_keys(given),
    )


def method_spec(label: str, method: Method) -> spec.MethodSpec:
    """Return the spec of a method, with the size that meets the budget among its options."""
    return spec.MethodSpec(
        name=method.name,
        label=label,
        size=method.size,
        options=method.model_dump(mode="json"),
        chosen=_chosen(method),
    )


def _training(
    recipe: CellRecipe, learning_rate: float, in_split: int, part: int, metric: str, every: int | None
) -> spec.PlannedTraining:
    given: Training = recipe.training
    work = recipe.budget
    amounts = _amounts(work, in_split, part)
    examples = amounts.pop("train_examples", None)
    steps = None if examples is None else math.ceil(examples / given.batch_size)
    warmup_steps, plateau = given.warmup_steps, None
    if work.plateau is not None:
        assert every is not None, "a plateau has a spacing of its scores"
        plateau = _plateau(work.plateau, metric)
        warmup_steps = round(given.warmup * WARMUP_SPACINGS * every) if warmup_steps is None else warmup_steps
    elif warmup_steps is None and steps is not None:
        warmup_steps = round(given.warmup * steps)
    elif warmup_steps is not None:
        warmup_steps = round(warmup_steps / part)
    return spec.PlannedTraining(
        **{name: getattr(given, name) for name in spec.Settings.model_fields},
        train_examples=examples,
        **amounts,
        caps=_amounts(work.caps, in_split, part),
        steps=steps,
        learning_rate=learning_rate,
        warmup_steps=warmup_steps,
        warmup=given.warmup if steps is None else None,
        threads=given.threads,
        arguments=recipe.arguments,
        plateau=plateau,
    )


def _plateau(rule: UntilPlateau, metric: str) -> spec.PlateauRule:
    """Return a rule with its least rise as a number: by default half of what matters in the metric."""
    known = find(metric)
    margin = known.margin if known is not None else None
    rise = (margin or 0.0) / 2 if rule.rise is None else rule.rise
    first = FIRST_PATIENCE * rule.patience if rule.first_patience is None else rule.first_patience
    first_patience = None if first == rule.patience else first
    return spec.PlateauRule(rise=rise, patience=rule.patience, decay=rule.decay, first_patience=first_patience)


def _amounts(work: Budget | Caps | None, in_split: int, part: int) -> dict[Axis, Any]:
    """Return the given amounts of work by axis, divided by *part*: epochs as examples, whole numbers rounded down."""
    if work is None:
        return {}
    given = {axis: amount for axis in AXES if (amount := getattr(work, axis)) is not None}
    if work.epochs is not None:
        given["train_examples"] = max(1, round(work.epochs * in_split))
    return {axis: given[axis] // part if WORK[axis].whole else given[axis] / part for axis in AXES if axis in given}


def _kept(suite: Suite, task: str) -> spec.KeepWeights:
    """Return the weights that a run keeps: those the suite asks for, and those that another run starts from."""
    wanted = suite.content.keep_weights
    if wanted == "none" and any(recipe.start == task for recipe in suite.content.recipes):
        return "best" if suite.rules.checkpoint == "best" else "last"
    return wanted


def _chosen(method: Method) -> dict[str, JsonValue]:
    """Return the size, and the options that differ from their defaults."""
    fields: dict[str, FieldInfo] = type(method).model_fields  # type: ignore[attr-defined]  # a Strict model
    return {
        name: value
        for name, value in method.model_dump(mode="json").items()
        if name == method.size or getattr(method, name) != fields[name].get_default(call_default_factory=True)
    }
