"""A suite: tasks × base models × methods × seeds under one budget, read from one YAML file.

`load_suite` resolves every name in the file and reports every fault at once, and a `Suite` says what each of its cells is to
do. What needs data, weights or counting comes after: see `lora_bench.plan.make_plan`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from lora_bench.documents import Document, Key, read_yaml, validate
from lora_bench.errors import BadInput, Fault, LoraBenchError, unknown
from lora_bench.records.analysis import Analysis, default_analysis
from lora_bench.records.budget import Budget, Work
from lora_bench.records.protocol import PROTOCOLS, Protocol
from lora_bench.records.spec import Decoding
from lora_bench.suite.entries import MethodEntry, read_each, read_method, read_model, read_task
from lora_bench.suite.schema import ModelEntry, Recipe, SuiteFile, Training
from lora_bench.suite.validate_suite import contradictions, repeated
from lora_bench.tasks import Task
from lora_bench.util.paths import suite_files


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
        pickles: The base models whose pickled weights may be read: a user names them for a command, and no suite does.
        code: The code that may run, as `NAME@HASH`: a user's permission; see `lora_bench.suite.consent`.
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
    pickles: frozenset[str] = frozenset()
    code: frozenset[str] = frozenset()

    @property
    def analysis(self) -> Analysis | None:
        """How its scores are judged, or None where there is one method."""
        return self.content.analysis or default_analysis([entry.label for entry in self.methods])

    def recipe(self, task: str, model: str, entry: MethodEntry, budget: Budget | None = None) -> CellRecipe:
        """How the runs of a cell are done: the suite's recipe, with what its `recipes` change for this cell.

        Args:
            task: Its name.
            model: The name of its base model.
            entry: Its method.
            budget: The one of the method's budgets that it is held to; the first by default.
        """
        content = self.content
        found = CellRecipe(
            training=content.training,
            arguments=content.training_arguments,
            budget=budget or self.budgets(entry)[0],
            rates=entry.rates(model),
            selection_every=content.selection_every,
            decoding=content.decoding,
            start=None,
        )
        for recipe in content.recipes:
            if recipe.holds(task, model, entry.label):
                found = _changed(found, recipe)
        return found

    def budgets(self, entry: MethodEntry) -> tuple[Budget, ...]:
        """The budgets that a method is run under: one for each target of the suite, or one for a method without size."""
        budgets = self.content.budget.budgets(sized=entry.method.size is not None)
        tuning = self.content.tuning
        if tuning is None or tuning.halving is None:
            return budgets
        spent = {"halving": tuning.halving, "rungs": tuning.rungs}
        return tuple(budget.model_copy(update=spent) for budget in budgets)

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
    if recipe.given:
        budget = budget.model_copy(update={name: getattr(recipe, name) for name in Work.model_fields})
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
    file, document, argument = find_suite(name_or_file)
    if is_probe_suite(document):
        raise LoraBenchError(
            f"{argument} has no tasks to run: it is a suite of probes, for `lora-bench probe {argument}`"
        )
    faults: list[Fault] = []
    # Parts are read even where the whole does not validate, so that all faults come at once.
    tasks = read_each(document, "tasks", faults, lambda key, entry: read_task(document, key, entry, file.parent))
    models = read_each(document, "models", faults, lambda key, entry: read_model(document, key, entry))
    methods = read_each(document, "methods", faults, lambda key, entry: read_method(document, key, entry))
    content: SuiteFile | None = None
    try:
        content = validate(SuiteFile, document)
    except BadInput as error:
        faults += error.faults
    faults += repeated(document, "tasks", [task.task for task, _ in tasks])
    faults += repeated(document, "models", [entry.model for entry in models])
    faults += repeated(document, "methods", [entry.label for entry in methods])
    protocol, rules = _protocol(document, faults)
    if content is not None:
        faults += contradictions(document, content, [task.task for task, _ in tasks], models, methods)
    if faults or content is None:
        raise BadInput(faults)
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


def find_suite(name_or_file: str | Path) -> tuple[Path, Document, str]:
    """The file that a suite lies in, what it holds, and what a command calls it: a file without its folders if absolute.

    Raises:
        LoraBenchError: If nothing answers to the name.
        BadInput: If the file cannot be read.
    """
    file = _find(str(name_or_file))
    document = read_yaml(file, shown=str(name_or_file) if file == Path(name_or_file) else None)
    return file, document, str(name_or_file) if not Path(name_or_file).is_absolute() else Path(name_or_file).name


def is_probe_suite(document: Document) -> bool:
    """Whether a file is a suite of probes alone: see `lora_bench.suite.probe_suite`."""
    return "tasks" not in document.data and "cell" in document.data


def check_pickles(names: Iterable[str], models: Iterable[ModelEntry]) -> frozenset[str]:
    """The base models of a suite whose pickled weights a user allows to be read.

    Raises:
        LoraBenchError: If the suite has no such model, with the nearest it has.
    """
    known = [entry.model for entry in models]
    for name in names:
        if name not in known:
            raise unknown("model in --allow-pickle", name, known)
    return frozenset(names)


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
