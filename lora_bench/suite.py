"""A suite: tasks × base models × methods × seeds under one budget, read from one YAML file.

`SuiteFile` is the file as people write it, key by key (its JSON Schema ships for editors); `load_suite` resolves every name
in it and reports every fault at once. What needs data, weights or counting comes after: see `lora_bench.plan`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, JsonValue, ValidationError

from lora_bench.budget import Budget
from lora_bench.documents import Document, Key, Strict, read_yaml, validate
from lora_bench.errors import BadInput, Fault, LoraBenchError, did_you_mean, unknown
from lora_bench.methods import Method, known_methods
from lora_bench.resources import suite_files, task_files
from lora_bench.spec import KeepWeights, Precision, ScoreSplit
from lora_bench.tasks import Task, load_task, task_from_document

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"

# What the harness itself decides; a suite that could change these would change what is measured, or lose it.
OWN_ARGUMENTS = {
    "output_dir", "max_steps", "num_train_epochs", "per_device_train_batch_size", "per_device_eval_batch_size",
    "learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay", "max_grad_norm", "bf16", "fp16", "seed",
    "data_seed", "train_sampling_strategy", "remove_unused_columns", "label_names", "logging_steps",
    "logging_nan_inf_filter", "save_strategy", "eval_strategy", "report_to", "disable_tqdm", "use_cpu",
    "resume_from_checkpoint", "load_best_model_at_end", "full_determinism", "push_to_hub",
    "dataloader_drop_last", "auto_find_batch_size", "logging_strategy", "logging_first_step",
}  # fmt: skip


Schedule = Literal[
    "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt"
]  # fmt: skip


class Training(Strict):
    """The recipe that all methods share.

    Args:
        batch_size: Examples in one optimiser step.
        max_length: Tokens after which an input is cut.
        schedule: How the learning rate falls: one of transformers' schedules by name.
        warmup: Share of the steps over which the learning rate rises from 0.
        weight_decay: AdamW's, on all but biases and norms.
        max_grad_norm: Gradients are scaled down to this norm; 0 for never.
        precision: "float32", or "bfloat16" by autocast.
        threads: CPU threads of each worker. Another number adds in another order, so it is part of a run's id.
    """

    batch_size: int = Field(default=16, gt=0)
    max_length: int = Field(default=128, gt=0)
    schedule: Schedule = "linear"
    warmup: float = Field(default=0.1, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float = Field(default=1.0, ge=0)
    precision: Precision = "float32"
    threads: int = Field(default=1, gt=0)


class ModelEntry(Strict):
    """A base model of a suite: its name, and what a name alone does not say.

    Args:
        model: A known model, a folder, or a name on the hub.
        revision: Commit, tag or branch on the hub.
        shown: What reports call it.
    """

    model: str
    revision: str | None = None
    shown: str | None = None


class SuiteFile(Strict):
    """A suite as people write it.

    Args:
        suite: Its name.
        about: What it is for, in a sentence.
        tasks: Names of tasks, or tasks written out.
        models: Names of base models, or mappings with `model`.
        methods: Names of methods, or mappings with `method`, its options, and optionally `label` and `learning_rate`.
        seeds: One run each.
        budget: What all methods are held equal to.
        training: The recipe that all methods share.
        training_arguments: Passed through to `transformers.TrainingArguments`, the same for all methods.
        score_on: The split that scores are of: "test", or "selection" for a search.
        selection_every: Steps between scores on the selection split.
        keep_weights: Which trained weights stay: "none", "last", or "best" on the selection split.
        protocol: The rules by which scores are made.
    """

    suite: str = Field(pattern=NAME)
    about: str = ""
    tasks: tuple[str | dict[str, JsonValue], ...] = Field(min_length=1)
    models: tuple[str | dict[str, JsonValue], ...] = Field(min_length=1)
    methods: tuple[str | dict[str, JsonValue], ...] = Field(min_length=1)
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**32)], ...] = Field(min_length=1)
    budget: Budget
    training: Training = Training()
    training_arguments: dict[str, JsonValue] = Field(default_factory=dict)
    score_on: ScoreSplit = "test"
    selection_every: int | None = Field(default=None, gt=0)
    keep_weights: KeepWeights = "none"
    protocol: str = Field(default="strict", pattern="^strict$")


@dataclass(frozen=True)
class MethodEntry:
    """A method of a suite.

    Args:
        label: What reports call it; the method's name by default.
        method: The method with its options.
        learning_rates: Those to run by base model; `None` is every other model. Several make a search.
    """

    label: str
    method: Method
    learning_rates: dict[str | None, tuple[float, ...]]

    def rates(self, model: str) -> tuple[float, ...]:
        """The learning rates to run on a base model."""
        if model in self.learning_rates:
            return self.learning_rates[model]
        return self.learning_rates.get(None, (type(self.method).learning_rate,))


@dataclass(frozen=True)
class Suite:
    """A suite with every name resolved.

    Args:
        file: The file it came from.
        argument: What a user types to name it: its name, or the file.
        document: The file as read, with the line of each key.
        tasks: With the folder that each one's paths are seen from.
        content: The rest, as written.
    """

    file: Path
    document: Document
    argument: str
    tasks: tuple[tuple[Task, Path], ...]
    models: tuple[ModelEntry, ...]
    methods: tuple[MethodEntry, ...]
    content: SuiteFile

    @property
    def name(self) -> str:
        """Its name."""
        return self.content.suite

    @property
    def base(self) -> Path:
        """The folder that its paths are seen from."""
        return self.file.parent


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
    if content is not None:
        faults += _across(document, content, models, methods)
    if faults or content is None:
        raise BadInput(faults)
    return Suite(file, document, str(name_or_file), tuple(tasks), tuple(models), tuple(methods), content)


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
    rates = {}
    try:
        rates = _rates(document, (*key, "learning_rate"), entry["learning_rate"]) if "learning_rate" in entry else {}
    except BadInput as error:
        faults += error.faults
    try:
        method = validate(known[name], document, key, without=("method", "label", "learning_rate"))  # type: ignore[type-var]
    except BadInput as error:
        raise BadInput([*error.faults, *faults]) from None
    if faults:
        raise BadInput(faults)
    return MethodEntry(label, method, rates)


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
    tried = {entry.label: len(entry.rates(model)) for entry in methods for model in names}
    if content.budget.trials is not None:
        faults += [
            document.fault(("budget", "trials"), f"is {content.budget.trials}, but {label} has {count} learning rates")
            for label, count in tried.items()
            if count != content.budget.trials
        ]
    if content.score_on == "test" and any(count > 1 for count in tried.values()):
        faults.append(
            document.fault(
                ("score_on",), "several learning rates make a search, which scores on 'selection', not on 'test'"
            )
        )
    if content.keep_weights == "best" and content.selection_every is None:
        faults.append(
            document.fault(
                ("keep_weights",), "'best' needs selection_every, the steps between scores on the selection split"
            )
        )
    faults += [
        document.fault(("training_arguments", name), f"is decided by the suite's own keys{_own_key(name)}")
        for name in sorted(OWN_ARGUMENTS.intersection(content.training_arguments))
    ]
    accumulation = content.training_arguments.get("gradient_accumulation_steps", 1)
    if not isinstance(accumulation, int) or accumulation < 1 or content.training.batch_size % accumulation:
        message = f"must divide training.batch_size ({content.training.batch_size}), got {accumulation!r}"
        faults.append(document.fault(("training_arguments", "gradient_accumulation_steps"), message))
    return faults


def _own_key(argument: str) -> str:
    keys = {
        "per_device_train_batch_size": "training.batch_size", "lr_scheduler_type": "training.schedule",
        "learning_rate": "methods[].learning_rate", "warmup_steps": "training.warmup", "bf16": "training.precision",
        "max_steps": "budget.train_examples", "num_train_epochs": "budget.epochs", "seed": "seeds",
        "weight_decay": "training.weight_decay", "max_grad_norm": "training.max_grad_norm",
    }  # fmt: skip
    return f": use {keys[argument]}" if argument in keys else ""
