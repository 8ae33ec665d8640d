"""A suite: tasks × base models × methods × seeds under one budget, read from one YAML file.

`load_suite` resolves every name in the file and reports every fault at once, and a `Suite` says what each of its cells is to
do. What needs data, weights or counting comes after: see `lora_bench.plan`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import JsonValue, ValidationError

from lora_bench.budget import Budget
from lora_bench.documents import Document, Key, read_yaml, validate
from lora_bench.errors import BadInput, Fault, LoraBenchError, did_you_mean, unknown
from lora_bench.methods import Method, known_methods
from lora_bench.protocol import PROTOCOLS, Protocol
from lora_bench.resources import suite_files, task_files
from lora_bench.spec import Decoding
from lora_bench.suite_file import OWN_ARGUMENTS, ModelEntry, Recipe, SuiteFile, Training
from lora_bench.tasks import Task, load_task, task_from_document


@dataclass(frozen=True)
class MethodEntry:
    """A method of a suite.

    Args:
        label: What reports call it; the method's name by default.
        method: The method with its options.
        learning_rates: Those to run by base model; `None` is every other model. Several make a search.
        tasks: Names of the tasks it is for; all where empty.
        models: Names of the base models it is for; all where empty.
    """

    label: str
    method: Method
    learning_rates: dict[str | None, tuple[float, ...]]
    tasks: tuple[str, ...] = ()
    models: tuple[str, ...] = ()

    def is_for(self, task: str, model: str) -> bool:
        """Whether the suite runs it on this task and base model."""
        return (not self.tasks or task in self.tasks) and (not self.models or model in self.models)

    def rates(self, model: str) -> tuple[float, ...]:
        """The learning rates to run on a base model."""
        if model in self.learning_rates:
            return self.learning_rates[model]
        return self.learning_rates.get(None, (type(self.method).learning_rate,))


@dataclass(frozen=True)
class CellRecipe:
    """How the runs of one task, base model and method are done.

    Args:
        training: The recipe of the training.
        arguments: Passed through to `transformers.TrainingArguments`.
        budget: What the cell is held to.
        rates: Learning rates; several are trials to choose from, or a search.
        selection_every: Steps between scores on the way.
        decoding: How completions are written.
        start: Task from whose run the trained weights are taken, or None for the pretrained checkpoint.
    """

    training: Training
    arguments: dict[str, JsonValue]
    budget: Budget
    rates: tuple[float, ...]
    selection_every: int | None
    decoding: Decoding
    start: str | None


@dataclass(frozen=True)
class Suite:
    """A suite with every name resolved.

    Args:
        file: The file it came from.
        command: What a user types after `lora-bench` to run it; a file is named without its folders if absolute.
        document: The file as read, with the line of each key.
        tasks: With the folder that each one's paths are seen from.
        protocol: Name of the protocol.
        rules: The protocol in full.
        content: The rest, as written.
    """

    file: Path
    document: Document
    command: tuple[str, ...]
    tasks: tuple[tuple[Task, Path], ...]
    models: tuple[ModelEntry, ...]
    methods: tuple[MethodEntry, ...]
    protocol: str
    rules: Protocol
    content: SuiteFile

    def recipe(self, task: str, model: str, entry: MethodEntry) -> CellRecipe:
        """How the runs of a cell are done: the suite's recipe, with what its `recipes` change for this cell."""
        content = self.content
        found = CellRecipe(
            training=content.training,
            arguments=content.training_arguments,
            budget=content.budget,
            rates=entry.rates(model),
            selection_every=content.selection_every,
            decoding=content.decoding,
            start=None,
        )
        for recipe in content.recipes:
            if recipe.holds(task, model, entry.label):
                found = _changed(found, recipe)
        return found

    @property
    def name(self) -> str:
        """Its name."""
        return self.content.suite

    @property
    def base(self) -> Path:
        """The folder that its paths are seen from."""
        return self.file.parent


def _changed(found: CellRecipe, recipe: Recipe) -> CellRecipe:
    """A cell's recipe with what one entry of `recipes` says otherwise."""
    given = {name: getattr(recipe, name) for name in recipe.model_fields_set}
    training = {name: value for name, value in given.items() if name in Training.model_fields}
    if "warmup" in training:
        training = {"warmup_steps": None, **training}
    budget = found.budget
    if recipe.epochs is not None or recipe.train_examples is not None:
        budget = budget.model_copy(update={"epochs": recipe.epochs, "train_examples": recipe.train_examples})
    return CellRecipe(
        training=found.training.model_copy(update=training),
        arguments={**found.arguments, **recipe.training_arguments},
        budget=budget,
        rates=given.get("learning_rate") or found.rates,
        selection_every=given.get("selection_every", found.selection_every),
        decoding=given.get("decoding") or found.decoding,
        start=given.get("start", found.start),
    )


def load_suite(name_or_file: str | Path) -> Suite:
    """Read a suite by name or from a file, and check all that can be checked without data or weights.

    Raises:
        LoraBenchError: If nothing answers to the name.
        BadInput: With every fault of the file.
    """
    file = _find(str(name_or_file))
    document = read_yaml(file, shown=str(name_or_file) if file == Path(name_or_file) else None)
    faults: list[Fault] = []
    # Parts are read even where the whole does not validate, so that all faults come at once.
    tasks = _each(document, "tasks", faults, lambda key, entry: _task(document, key, entry, file.parent))
    models = _each(document, "models", faults, lambda key, entry: _model(document, key, entry))
    methods = _each(document, "methods", faults, lambda key, entry: _method(document, key, entry))
    content: SuiteFile | None = None
    try:
        content = validate(SuiteFile, document)
    except BadInput as error:
        faults += error.faults
    faults += _repeated(document, "tasks", [task.task for task, _ in tasks])
    faults += _repeated(document, "models", [entry.model for entry in models])
    faults += _repeated(document, "methods", [entry.label for entry in methods])
    protocol, rules = _protocol(document, faults)
    if content is not None:
        faults += _across(document, content, models, methods)
        faults += _unknown_names(document, content, [task.task for task, _ in tasks], models, methods)
    if faults or content is None:
        raise BadInput(faults)
    argument = str(name_or_file) if not Path(name_or_file).is_absolute() else Path(name_or_file).name
    return Suite(
        file, document, ("run", argument), tuple(tasks), tuple(models), tuple(methods), protocol, rules, content
    )


def _protocol(document: Document, faults: list[Fault]) -> tuple[str, Protocol]:
    """The protocol's name and its rules in full."""
    given = document.data.get("protocol", "strict")
    name = given.get("protocol") if isinstance(given, dict) else given
    if not isinstance(name, str) or name not in PROTOCOLS:
        key: Key = ("protocol", "protocol") if isinstance(given, dict) else ("protocol",)
        faults.append(document.fault(key, str(unknown("protocol", str(name), PROTOCOLS))))
        return "strict", PROTOCOLS["strict"]
    if isinstance(given, str):
        return name, PROTOCOLS[name]
    try:
        own = validate(Protocol, document, ("protocol",), without=("protocol",))
    except BadInput as error:
        faults += error.faults
        return name, PROTOCOLS[name]
    return name, PROTOCOLS[name].model_copy(update={key: getattr(own, key) for key in own.model_fields_set})


def _find(name: str) -> Path:
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        return path
    if path.is_dir() and (path / "suite.yaml").is_file():
        return path / "suite.yaml"
    files = suite_files()
    if name not in files:
        raise unknown("suite", name, files)
    return files[name]


PartT = TypeVar("PartT")


def _each(document: Document, name: str, faults: list[Fault], read: Callable[[Key, Any], PartT]) -> list[PartT]:
    """Read every entry of a list that can be read, and note the faults of the others."""
    entries = document.data.get(name)
    parts: list[PartT] = []
    for index, entry in enumerate(entries if isinstance(entries, list) else []):
        key: Key = (name, index)
        if not isinstance(entry, str | dict):
            continue  # the file's own model says so
        try:
            parts.append(read(key, entry))
        except BadInput as error:
            faults += error.faults
        except LoraBenchError as error:
            faults.append(document.fault(key, str(error)))
    return parts


def _task(document: Document, key: Key, entry: Any, base: Path) -> tuple[Task, Path]:
    if isinstance(entry, str):
        return load_task(entry), task_files()[entry].parent
    return task_from_document(document, key), base


def _model(document: Document, key: Key, entry: Any) -> ModelEntry:
    return ModelEntry(model=entry) if isinstance(entry, str) else validate(ModelEntry, document, key)


def _method(document: Document, key: Key, entry: Any) -> MethodEntry:
    known = known_methods()
    if isinstance(entry, str):
        if entry not in known:
            raise unknown("method", entry, known)
        try:
            return MethodEntry(entry, known[entry](), {})
        except ValidationError as error:
            needed = ", ".join(str(detail["loc"][0]) for detail in error.errors())
            raise LoraBenchError(f"method {entry!r} needs {needed}: write {{method: {entry}, {needed}: …}}") from None
    name = entry.get("method")
    if not isinstance(name, str):
        raise BadInput([document.fault(key, "a method must be a name, or a mapping with the key 'method'")])
    if name not in known:
        raise BadInput([document.fault((*key, "method"), str(unknown("method", name, known)))])
    label = entry.get("label", name)
    faults = []
    if not isinstance(label, str) or not label:
        faults.append(document.fault((*key, "label"), f"must be text, got {label!r}"))
    only: dict[str, tuple[str, ...]] = {}
    for part in ("tasks", "models"):
        names = entry.get(part, [])
        names = [names] if isinstance(names, str) else names
        if not isinstance(names, list) or not all(isinstance(one, str) for one in names):
            faults.append(document.fault((*key, part), f"must be a name or a list of names, got {names!r}"))
        else:
            only[part] = tuple(names)
    rates = {}
    try:
        rates = _rates(document, (*key, "learning_rate"), entry["learning_rate"]) if "learning_rate" in entry else {}
    except BadInput as error:
        faults += error.faults
    try:
        method = validate(known[name], document, key, without=("method", "label", "learning_rate", "tasks", "models"))  # type: ignore[type-var]
    except BadInput as error:
        raise BadInput([*error.faults, *faults]) from None
    if faults:
        raise BadInput(faults)
    return MethodEntry(label, method, rates, **only)


def _rates(document: Document, key: Key, given: Any) -> dict[str | None, tuple[float, ...]]:
    """Learning rates: a number, a list of numbers, or a mapping from base models to either."""
    if isinstance(given, dict):
        rates: dict[str | None, tuple[float, ...]] = {}
        for model, value in given.items():
            rates[None if model == "default" else model] = _rate_list(document, (*key, model), value)
        return rates
    return {None: _rate_list(document, key, given)}


def _rate_list(document: Document, key: Key, given: Any) -> tuple[float, ...]:
    values = given if isinstance(given, list) else [given]
    if not values or not all(
        isinstance(value, int | float) and not isinstance(value, bool) and value > 0 for value in values
    ):
        raise BadInput([document.fault(key, f"must be a positive number or a list of them, got {given!r}")])
    return tuple(float(value) for value in values)


def _repeated(document: Document, name: str, names: list[str]) -> list[Fault]:
    twice = sorted({entry for entry in names if names.count(entry) > 1})
    hint = "; give each a label of its own" if name == "methods" else ""
    return [document.fault((name,), f"{entry!r} is listed twice{hint}") for entry in twice]


def _across(
    document: Document, content: SuiteFile, models: list[ModelEntry], methods: list[MethodEntry]
) -> list[Fault]:
    """Faults that only show when two keys are seen together."""
    faults = []
    names = [entry.model for entry in models]
    if len(set(content.seeds)) < len(content.seeds):
        faults.append(document.fault(("seeds",), "a seed is listed twice"))
    for entry in methods:
        for model in entry.learning_rates:
            if model is not None and model not in names:
                message = f"learning_rate names {model!r}, which is no model of this suite{did_you_mean(model, names)}"
                faults.append(document.fault(("methods",), f"{entry.label}: {message}"))
    # A recipe may give one cell other rates; those are counted where the plan is made.
    tried = {entry.label: len(entry.rates(model)) for entry in methods for model in names}
    if content.budget.trials is not None:
        faults += [
            document.fault(("budget", "trials"), f"is {content.budget.trials}, but {label} has {count} learning rates")
            for label, count in tried.items()
            if count != content.budget.trials
        ]
    several = any(count > 1 for count in tried.values()) or any(
        len(one.learning_rate or ()) > 1 for one in content.recipes
    )
    if several and content.score_on == "test" and content.tuning is None:
        message = (
            "several learning rates make a search, which scores on 'selection', not on 'test'; to run the best of them, "
            "give `tuning: {seeds: [...]}`"
        )
        faults.append(document.fault(("score_on",), message))
    if content.tuning is not None:
        shared = sorted(set(content.tuning.seeds) & set(content.seeds))
        if shared:
            faults.append(
                document.fault(("tuning", "seeds"), f"must not be among the reported seeds, as {shared[0]} is")
            )
        if content.score_on == "selection":
            faults.append(document.fault(("tuning",), "is for a suite that scores on 'test'"))
    if content.keep_weights == "best" and content.selection_every is None:
        faults.append(
            document.fault(
                ("keep_weights",), "'best' needs selection_every, the steps between scores on the selection split"
            )
        )
    faults += _own_arguments(document, ("training_arguments",), content.training_arguments)
    accumulation = content.training_arguments.get("gradient_accumulation_steps", 1)
    if not isinstance(accumulation, int) or accumulation < 1 or content.training.batch_size % accumulation:
        message = f"must divide training.batch_size ({content.training.batch_size}), got {accumulation!r}"
        faults.append(document.fault(("training_arguments", "gradient_accumulation_steps"), message))
    return faults


def _unknown_names(
    document: Document,
    content: SuiteFile,
    tasks: list[str],
    models: list[ModelEntry],
    methods: list[MethodEntry],
) -> list[Fault]:
    """Faults of keys that name a task, a base model or a method of the suite."""
    known = {
        "tasks": tasks,
        "models": [entry.model for entry in models],
        "methods": [entry.label for entry in methods],
    }
    named: list[tuple[Key, str, str]] = [(("data", name), "tasks", name) for name in content.data]
    for index, recipe in enumerate(content.recipes):
        key: Key = ("recipes", index)
        named += [((*key, part), part, name) for part in known for name in getattr(recipe, part)]
        named += [((*key, "start"), "tasks", recipe.start)] if recipe.start is not None else []
    for index, entry in enumerate(methods):
        key = ("methods", index)
        named += [((*key, part), part, name) for part in ("tasks", "models") for name in getattr(entry, part)]
    faults = [
        document.fault(key, f"{name!r} is none of this suite's {part}{did_you_mean(name, known[part])}")
        for key, part, name in named
        if name not in known[part]
    ]
    for index, recipe in enumerate(content.recipes):
        key = ("recipes", index)
        if recipe.epochs is not None and recipe.train_examples is not None:
            faults.append(document.fault(key, "give at most one of train_examples and epochs"))
        if recipe.start is not None and (not recipe.tasks or recipe.start in recipe.tasks):
            faults.append(document.fault((*key, "start"), "needs `tasks` that do not contain the task to start from"))
        faults += _own_arguments(document, (*key, "training_arguments"), recipe.training_arguments)
    return faults


def _own_arguments(document: Document, key: Key, given: dict[str, JsonValue]) -> list[Fault]:
    return [
        document.fault((*key, name), f"is decided by the suite's own keys{_own_key(name)}")
        for name in sorted(OWN_ARGUMENTS.intersection(given))
    ]


def _own_key(argument: str) -> str:
    keys = {
        "per_device_train_batch_size": "training.batch_size", "lr_scheduler_type": "training.schedule",
        "learning_rate": "methods[].learning_rate", "warmup_steps": "training.warmup", "bf16": "training.precision",
        "max_steps": "budget.train_examples", "num_train_epochs": "budget.epochs", "seed": "seeds",
        "weight_decay": "training.weight_decay", "max_grad_norm": "training.max_grad_norm",
    }  # fmt: skip
    return f": use {keys[argument]}" if argument in keys else ""
