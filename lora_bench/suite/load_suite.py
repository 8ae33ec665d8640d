"""A suite: tasks × base models × methods × seeds under one budget, read from one YAML file.

`load_suite` resolves every name in the file and reports every fault at once. A `Suite` has the recipe of each of its cells.
Checks that need data, weights or counting come later: see `lora_bench.plan.make_plan`.
"""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import JsonValue

from lora_bench.documents import Document, Key, read_yaml, validate
from lora_bench.errors import BadInput, Fault, LoraBenchError, collecting, unknown
from lora_bench.records.analysis import Analysis, UntilDecided, default_analysis
from lora_bench.records.budget import Budget
from lora_bench.records.kept_adapter import KeptAdapter
from lora_bench.records.protocol import PROTOCOLS, Protocol
from lora_bench.records.spec import Decoding
from lora_bench.suite.entries import MethodEntry, read_each, read_method, read_model, read_tasks
from lora_bench.suite.schema import ModelEntry, Recipe, SuiteFile, Training
from lora_bench.suite.validate_suite import contradictions, repeated
from lora_bench.tasks import Task
from lora_bench.util.paths import suite_files


@dataclass(frozen=True)
class CellRecipe:
    """The recipe for the runs of one task, base model and method.

    Args:
        rates: Learning rates; several are trials to choose from, or a search.
        selection_every: Steps between scores during training.
        start: Task whose run's trained weights are the start, or None for the pretrained checkpoint.
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
        command: Arguments of `lora-bench` that run it; an absolute path is given without its folders.
        tasks: Each task, with the folder that its paths are relative to.
        rules: The protocol in full.
        pickles: Base models whose pickled weights may be read: a user allows them for a command, and no suite can.
        code: Code that may run, as `NAME@HASH`: a user's permission; see `lora_bench.suite.consent`.
        adapter: Adapter from which every run starts that would start from another task's run; None for that run.
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
    adapter: KeptAdapter | None = None

    @property
    def analysis(self) -> Analysis | None:
        """Rules for judging its scores, or None if it has only one method."""
        settings = self.content.analysis or default_analysis([entry.label for entry in self.methods])
        seeds = self.content.seeds
        own = {"seeds": seeds} if isinstance(seeds, UntilDecided) else {"fixed_seeds": len(seeds)}
        return None if settings is None else Analysis(**{**dict(settings), **own})

    def recipe(self, task: str, model: str, entry: MethodEntry, budget: Budget | None = None) -> CellRecipe:
        """Return the recipe of a cell, with the suite's `recipes` that cover it, under its method's first budget by default."""
        content = self.content
        cell = CellRecipe(
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
                cell = _changed(cell, recipe)
        return cell

    def budgets(self, entry: MethodEntry) -> tuple[Budget, ...]:
        """Return the budgets of a method: one for each target of the suite, or one for a method without size."""
        budgets = self.content.budget.budgets(sized=entry.method.size is not None)
        tuning = self.content.tuning
        if tuning is None:
            return budgets
        rungs = tuning.rungs if tuning.halving is not None else None
        spent = {"halving": tuning.halving, "rungs": rungs, "search": tuning.search}
        return tuple(budget.model_copy(update=spent) for budget in budgets)

    @property
    def name(self) -> str:
        """Its name."""
        return self.content.suite

    @property
    def base(self) -> Path:
        """Folder that its paths are relative to."""
        return self.file.parent


def _changed(cell: CellRecipe, recipe: Recipe) -> CellRecipe:
    keys = {name: getattr(recipe, name) for name in recipe.model_fields_set}
    training = {name: value for name, value in keys.items() if name in Training.model_fields}
    if "warmup" in training:
        training = {"warmup_steps": None, **training}
    budget = cell.budget
    if recipe.given:
        budget = budget.model_copy(update=recipe.amounts)
    return CellRecipe(
        training=cell.training.model_copy(update=training),
        arguments={**cell.arguments, **recipe.training_arguments},
        budget=budget,
        rates=keys.get("learning_rate") or cell.rates,
        selection_every=keys.get("selection_every", cell.selection_every),
        decoding=keys.get("decoding") or cell.decoding,
        start=keys.get("start", cell.start),
    )


def load_suite(name_or_file: str | Path) -> Suite:
    """Read a suite and check all that needs no data or weights. Raise LoraBenchError if there is none, BadInput with faults."""
    file, document, argument = find_suite(name_or_file)
    if is_probe_suite(document):
        raise LoraBenchError(
            f"{argument} has no tasks to run: it is a suite of probes, for `lora-bench probe {argument}`"
        )
    faults: list[Fault] = []
    # Parts are read even if the whole is invalid, so that all faults are reported at once.
    each = read_each(document, "tasks", faults, lambda key, entry: read_tasks(document, key, entry, file.parent))
    tasks = list(itertools.chain.from_iterable(each))
    models = read_each(document, "models", faults, lambda key, entry: read_model(document, key, entry))
    methods = read_each(document, "methods", faults, lambda key, entry: read_method(document, key, entry))
    content: SuiteFile | None = None
    with collecting(faults):
        content = validate(SuiteFile, document)
    faults += repeated(document, "tasks", [task.task for task, _ in tasks])
    faults += repeated(document, "models", [entry.model for entry in models])
    faults += repeated(document, "methods", [entry.label for entry in methods])
    protocol, rules = _protocol(document, faults)
    if content is not None:
        faults += contradictions(document, content, [task.task for task, _ in tasks], models, methods, rules)
    if faults or content is None:
        raise BadInput(faults)
    return Suite(
        file, document, ("run", argument), tuple(tasks), tuple(models), tuple(methods), protocol, rules, content
    )


def _protocol(document: Document, faults: list[Fault]) -> tuple[str, Protocol]:
    rules = document.data.get("protocol", "strict")
    name = rules.get("protocol") if isinstance(rules, dict) else rules
    if not isinstance(name, str) or name not in PROTOCOLS:
        key: Key = ("protocol", "protocol") if isinstance(rules, dict) else ("protocol",)
        faults.append(document.fault(key, str(unknown("protocol", str(name), PROTOCOLS))))
        return "strict", PROTOCOLS["strict"]
    if isinstance(rules, str):
        return name, PROTOCOLS[name]
    changes: dict[str, JsonValue] = {}
    with collecting(faults):
        own = validate(Protocol, document, ("protocol",), without=("protocol",))
        changes = {key: getattr(own, key) for key in own.model_fields_set}
    return name, PROTOCOLS[name].model_copy(update=changes)


def with_seeds(suite: Suite, number: int) -> Suite:
    """Return a suite with so many seeds of every method.

    They are its own and the next whole numbers. Where seeds are added until decided, each method has so many before the first
    look. Raise LoraBenchError if seeds are added until decided, and these are too few for a look.
    """
    content = suite.content
    trials = set(content.tuning.seeds) if content.tuning is not None else set()
    seeds: tuple[int, ...] | UntilDecided
    if isinstance(content.seeds, UntilDecided):
        least = UntilDecided.model_json_schema()["properties"]["at_least"]["minimum"]
        if number < least:
            raise LoraBenchError(f"--seeds {number}: seeds that are added until decided begin with {least} or more")
        most = max(number, content.seeds.at_most)
        seeds = content.seeds.model_copy(update={"at_least": number, "at_most": most})
        if common := trials & set(range(seeds.at_most)):
            raise LoraBenchError(
                f"--seeds {number}: seed {min(common)} is one of the suite's trials, `tuning: {{seeds: …}}`"
            )
    else:
        further = (seed for seed in itertools.count() if seed not in {*content.seeds, *trials})
        seeds = tuple(itertools.islice(itertools.chain(content.seeds, further), number))
    command = (*suite.command, "--seeds", str(number))
    return replace(suite, command=command, content=content.model_copy(update={"seeds": seeds}))


def find_suite(name_or_file: str | Path) -> tuple[Path, Document, str]:
    """Return a suite's file, content, and name without folders. Raise LoraBenchError for no suite, BadInput for bad YAML."""
    file = _find(str(name_or_file))
    document = read_yaml(file, shown=str(name_or_file) if file == Path(name_or_file) else None)
    return file, document, str(name_or_file) if not Path(name_or_file).is_absolute() else Path(name_or_file).name


def is_probe_suite(document: Document) -> bool:
    """Return True if a file is a suite of probes alone: see `lora_bench.suite.probe_suite`."""
    return "tasks" not in document.data and "cell" in document.data


def check_pickles(names: Iterable[str], models: Iterable[ModelEntry]) -> frozenset[str]:
    """Return the base models whose pickles the user allows. Raise LoraBenchError if the suite has no such model."""
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
