"""A published table run again: its own suite, narrowed to the request, and its printed numbers beside ours.

    table → its suite, narrowed → runs as of any suite → records → a verdict for every printed number

The table's suite gives the expected run of each cell again when the verdicts are made. So verdicts follow from the records
alone, and their report can be rendered anywhere.
"""

import dataclasses
import math
import re
from collections.abc import Collection, Sequence
from pathlib import Path

from lora_bench.errors import LoraBenchError, unknown
from lora_bench.methods import with_size
from lora_bench.models.registry import BaseModel
from lora_bench.plan.inputs import LoadedTask
from lora_bench.plan.resolve import RunGroup, run_spec
from lora_bench.published import CellVerdict, PublishedTable, disagreements, expected_from, judge_table, load_table
from lora_bench.published.comparable import place_of
from lora_bench.published.table_section import published_section
from lora_bench.records.kept_adapter import find_adapter
from lora_bench.records.protocol import PROTOCOLS
from lora_bench.records.record import Record
from lora_bench.records.spec import PlannedSpec, RunSpec, Start
from lora_bench.report.blocks import Block
from lora_bench.suite.entries import MethodEntry
from lora_bench.suite.load_suite import Suite, load_suite
from lora_bench.suite.schema import ModelEntry, Recipe
from lora_bench.tasks import Split, Task, TaskData, as_laid_out, hub_sha256, task_from_definition

COMMIT = re.compile("[0-9a-f]{40}")


def table_suite(name: str) -> tuple[PublishedTable, Suite]:
    """Return a published table and its suite. Raise LoraBenchError if there is no such table, or nothing here repeats it."""
    table = load_table(name)
    if table.no_suite is not None:
        raise LoraBenchError(f"the table {name!r} cannot be reproduced here: {table.no_suite}")
    suite = load_suite(table.folder / "suite.yaml")
    return table, dataclasses.replace(suite, command=("reproduce", name))


def reproduction(
    name: str,
    *,
    model: str | None = None,
    role: str | None = None,
    revision: str | None = None,
    tasks: Collection[str] = (),
    methods: Collection[str] = (),
    seeds: int | None = None,
    protocol: str | None = None,
    epochs: float | None = None,
    train_examples: int | None = None,
    start_from: Path | str | None = None,
) -> Suite:
    """Return the suite of the part of a published table that is to run, by the options of docs/published.md#repeat-a-part.

    What is not given is the table's own. *model* is one of the table, with or without the owner of its repository, or stands
    in for *role*. *seeds* is their number, from 0 on. *epochs* and *train_examples* stand in place of each recipe's work, for
    a smoke test. Raise LoraBenchError if a name is not in the table.
    """
    _, suite = table_suite(name)
    known = {entry.model: entry for entry in suite.models}
    stand_ins: dict[str, str] = {}
    if model is not None:
        own = _own_model(model, known)
        if own is None:
            own = _replaced(role, known)
            # A folder is seen from where the user is and not from the table's own folder.
            stand_ins = {own: str(Path(model).absolute()) if Path(model).is_dir() else model}
        methods_of_it = tuple(entry for entry in suite.methods if not entry.models or own in entry.models)
        suite = _renamed(dataclasses.replace(suite, models=(known[own],), methods=methods_of_it), stand_ins)
    elif role is not None:
        raise LoraBenchError(f"--as {role} says for which base model another stands in: name that one with --model")
    if revision is not None:
        suite = _at_revision(suite, revision)
    suite = _with_tasks(suite, tasks, alone=start_from is not None)
    suite = _with_methods(suite, methods)
    if start_from is not None:
        suite = _with_adapter(suite, Path(start_from))
    if seeds is not None:
        suite = _with_content(suite, seeds=tuple(range(seeds)))
    if protocol is not None:
        if protocol not in PROTOCOLS:
            raise unknown("protocol", protocol, PROTOCOLS)
        suite = dataclasses.replace(suite, protocol=protocol, rules=PROTOCOLS[protocol])
    work = {"epochs": epochs, "train_examples": train_examples}
    if shortened := {name: amount for name, amount in work.items() if amount is not None}:
        if len(shortened) > 1:
            raise LoraBenchError("give at most one of --epochs and --train-examples")
        for name, amount in shortened.items():
            if not 0 < amount < math.inf:
                raise LoraBenchError(f"--{name.replace('_', '-')} must be above 0, got {amount:g}")
        # The last recipe wins, and this one is for every run.
        suite = _with_content(suite, recipes=(*suite.content.recipes, Recipe.model_validate(shortened)))
    shown = Path(model).name if model is not None and Path(model).is_absolute() else model
    options = {
        "--model": shown,
        "--as": role,
        "--revision": revision,
        "--protocol": protocol,
        "--seeds": None if seeds is None else str(seeds),
    }
    if start_from is not None:
        folder = Path(start_from)
        options["--start-from"] = folder.name if folder.is_absolute() else str(folder)
    options |= {f"--{name.replace('_', '-')}": f"{amount:g}" for name, amount in shortened.items()}
    options |= {"--tasks": ",".join(tasks) or None, "--methods": ",".join(methods) or None}
    words = [word for option, value in options.items() if value is not None for word in (option, value)]
    return dataclasses.replace(suite, command=(*suite.command, *words))


def verdicts(table: PublishedTable, records: Sequence[Record], role: str | None = None) -> tuple[CellVerdict, ...]:
    """Judge every printed number of a table, from records alone.

    *role* is the base model of the table that another one in the records stands in for; the first by default. Raise
    LoraBenchError if it is none of the table, or several models would play it.
    """
    stand_ins = _stand_ins(table, records, role)
    _, suite = table_suite(table.name)
    asked = _asked_for(_renamed(suite, stand_ins), records)
    releases = {task.task: task.release for task, _ in suite.tasks}
    return judge_table(table, records, expected_from(asked, stand_ins, releases), stand_ins)


def published_blocks(name: str, records: Sequence[Record], role: str | None = None) -> list[Block]:
    """Return the section of a report that holds records against a published table."""
    table = load_table(name)
    return published_section(table, verdicts(table, records, role), elsewhere=disagreements(table))


def _stand_ins(table: PublishedTable, records: Sequence[Record], role: str | None) -> dict[str, str]:
    """The base model of the table that another one in the records stands in for, with the name of that one."""
    names = {record.spec.model.name for record in records}
    others = sorted(name for name in names if not _own_model(name, table.models))
    if not others:
        return {}
    if len(others) > 1:
        raise LoraBenchError(
            f"the records are of {len(others)} base models that are not in the table {table.name!r} "
            f"({', '.join(others)}); only one can stand in, so report them apart"
        )
    return {_replaced(role, table.models): others[0]}


def _asked_for(suite: Suite, records: Sequence[Record]) -> list[RunSpec]:
    """The runs that the table's suite asks for, on the data and base model of each record."""
    asked: dict[tuple[str, str, str], RunSpec] = {}
    for record in records:
        place = place_of(record.spec)
        # Of a run that no suite planned, too little is known to ask for the same.
        if place in asked or record.data is None or record.spec.source is not None:
            continue
        label, model, task = record.spec.method.label, record.spec.model.name, record.spec.task.name
        entry = next((entry for entry in suite.methods if entry.label == label), None)
        if entry is not None and entry.is_for(task, model):
            asked[place] = _asked_spec(suite, entry, record)
    return list(asked.values())


def _asked_spec(suite: Suite, entry: MethodEntry, record: Record) -> RunSpec:
    """The spec that the suite gives a run on the data and base model of a record."""
    spec = PlannedSpec.model_validate_json(record.spec.model_dump_json())
    assert record.data is not None
    recipe = suite.recipe(spec.task.name, spec.model.name, entry)
    task = _asked_task(suite, spec)
    on_hub = task.data.hub is not None and task.data.revision is not None
    data_sha256 = hub_sha256(task.data, str(task.data.revision)) if on_hub else spec.task.data_sha256
    count = record.data.examples.get("train", 0)
    if spec.rules.selection_from_train and not suite.rules.selection_from_train:
        count += record.data.examples.get("selection", 0)
    train = Split([""] * count, [("",)] * count, [0] * count)
    method = entry.method
    if recipe.budget.parameter_target is not None and spec.method.size is not None:
        method = with_size(method, int(str(spec.method.options[spec.method.size])))
    rate = spec.training.learning_rate
    group = RunGroup(
        suite=suite,
        loaded=LoadedTask(task, Path(), TaskData({"train": train}, spec.task.labels, data_sha256, ())),
        base_model=BaseModel(
            name=spec.model.name,
            shown=spec.model.shown,
            folder=Path(),
            sha256=spec.model.sha256,
            revision=spec.model.revision,
            model_type=spec.model.model_type,
        ),
        entry=entry,
        method=method,
        recipe=recipe,
        series=spec.series,
    )
    start = Start(task=recipe.start, run_id="") if recipe.start is not None else None
    return run_spec(group, rate if rate in recipe.rates else recipe.rates[0], spec.seed, start=start)


def _asked_task(suite: Suite, spec: PlannedSpec) -> Task:
    """The suite's own task, with its data where the record has it: at its commit on the hub, or in its folder's files."""
    (own,) = (task for task, _ in suite.tasks if task.task == spec.task.name)
    data = task_from_definition(spec.task.definition).data
    if data.hub is None:
        return own if own.local is None else as_laid_out(own).model_copy(update={"data": data})
    pinned = COMMIT.fullmatch(own.data.revision or "")
    return own if pinned else own.model_copy(update={"data": own.data.model_copy(update={"revision": data.revision})})


def _own_model(name: str | None, known: Collection[str]) -> str | None:
    return next((one for one in known if name in (one, one.rsplit("/", 1)[-1])), None)


def _replaced(role: str | None, known: Collection[str]) -> str:
    """The base model that another stands in for: the one of this role, or the first."""
    own = _own_model(role, known) if role is not None else next(iter(known))
    if own is None:
        raise unknown("base model of the table", str(role), known)
    return own


def _with_content(suite: Suite, **changed: object) -> Suite:
    return dataclasses.replace(suite, content=suite.content.model_copy(update=changed))


def _at_revision(suite: Suite, revision: str) -> Suite:
    if len(suite.models) > 1:
        names = ", ".join(entry.model for entry in suite.models)
        raise LoraBenchError(f"--revision is of one base model, and the table has {names}: name one with --model")
    return dataclasses.replace(suite, models=(suite.models[0].model_copy(update={"revision": revision}),))


def _renamed(suite: Suite, stand_ins: dict[str, str]) -> Suite:
    """The suite with other base models in the stead of its own, wherever they are named."""

    def renamed(names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(stand_ins.get(name, name) for name in names)

    if not stand_ins:
        return suite
    recipes = tuple(recipe.model_copy(update={"models": renamed(recipe.models)}) for recipe in suite.content.recipes)
    models = tuple(ModelEntry(model=stand_ins[one.model]) if one.model in stand_ins else one for one in suite.models)
    methods = tuple(
        dataclasses.replace(
            entry,
            models=renamed(entry.models),
            learning_rates={
                name if name is None else stand_ins.get(name, name): rates
                for name, rates in entry.learning_rates.items()
            },
        )
        for entry in suite.methods
    )
    return dataclasses.replace(_with_content(suite, recipes=recipes), models=models, methods=methods)


def _with_tasks(suite: Suite, tasks: Collection[str], *, alone: bool) -> Suite:
    """The suite on some of its tasks, and, unless *alone*, on those that they start from."""
    known = [task.task for task, _ in suite.tasks]
    for name in tasks:
        if name not in known:
            raise unknown("task of the table", name, known)
    if not tasks:
        return suite
    started = [recipe for recipe in suite.content.recipes if not alone and set(tasks).intersection(recipe.tasks)]
    wanted = {*tasks, *(recipe.start for recipe in started)}
    recipes = tuple(
        recipe.model_copy(update={"tasks": tuple(name for name in recipe.tasks if name in wanted)})
        for recipe in suite.content.recipes
        if not recipe.tasks or wanted.intersection(recipe.tasks)
    )
    chosen = tuple((task, base) for task, base in suite.tasks if task.task in wanted)
    return dataclasses.replace(_with_content(suite, recipes=recipes), tasks=chosen)


def _with_adapter(suite: Suite, folder: Path) -> Suite:
    """The suite with an adapter, which is of one base model and method, in place of the runs that others start from."""
    adapter = find_adapter(folder)
    rows = dict.fromkeys(
        f"{entry.label} on {model.model}"
        for task, _ in suite.tasks
        for model in suite.models
        for entry in suite.methods
        if entry.is_for(task.task, model.model) and suite.recipe(task.task, model.model, entry).start is not None
    )
    if not rows:
        raise LoraBenchError("--start-from: none of these rows starts from the run of another task")
    if len(rows) > 1:
        raise LoraBenchError(
            f"--start-from gives one adapter, and it would start {', '.join(rows)}: choose with --model and --methods"
        )
    return dataclasses.replace(suite, adapter=adapter)


def _with_methods(suite: Suite, methods: Collection[str]) -> Suite:
    known = [entry.label for entry in suite.methods]
    for label in methods:
        if label not in known:
            raise unknown("row of the table", label, known)
    if not methods:
        return suite
    return dataclasses.replace(suite, methods=tuple(entry for entry in suite.methods if entry.label in methods))
