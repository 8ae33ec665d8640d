"""Readers of a suite's list entries: tasks, base models, and methods with their learning rates."""

import random
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import Field, ValidationError, model_validator

from lora_bench.documents import Document, Key, Strict, validate
from lora_bench.errors import BadInput, Fault, LoraBenchError, collecting, refuse
from lora_bench.methods import Method, Preset, known_methods, known_presets, unknown_method
from lora_bench.suite.from_table import as_yaml, name_of, task_flow
from lora_bench.suite.halving import rungs_of
from lora_bench.suite.schema import ModelEntry, Tuning
from lora_bench.tasks import Task, load_task, task_from_document, values_of
from lora_bench.tasks.look import look
from lora_bench.tasks.source_tables import format_of
from lora_bench.util.hashing import content_hash
from lora_bench.util.paths import task_files

# So few rates drawn at random from a range are likely to leave a hole around the best one.
FEW_RATES = 6
PartT = TypeVar("PartT")


class Range(Strict):
    """A range of learning rates, of which `budget: {trials: N}`, or the first rung of `tuning: {halving: F}`, takes N.

    Six or fewer are a grid, as so few random draws leave holes; more are drawn, one from each of N slices of equal ratio.

    Args:
        low: Smallest rate.
        high: Greatest rate.
    """

    low: float = Field(gt=0)
    high: float = Field(gt=0)

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low is {self.low:g} and high {self.high:g}; low must be the smaller one")
        return self

    @property
    def width(self) -> float:
        """The ratio of the greatest rate to the smallest."""
        return self.high / self.low

    def take(self, number: int) -> tuple[float, ...]:
        """Return *number* rates, ascending: few from the smallest to the greatest, each the same factor above the one before.

        More are a random search; all ranges are drawn from at the same places. Rates have three digits, or more if two would be
        equal.
        """
        places = random.Random("learning rates 0")
        if number > FEW_RATES:
            shares = [(index + places.random()) / number for index in range(number)]
        else:
            shares = [index / (number - 1) for index in range(number)] if number > 1 else [0.5]
        rates: tuple[float, ...] = ()
        for digits in range(3, 18):
            rates = tuple(float(f"{self.low * self.width**share:.{digits}g}") for share in shares)
            if len(set(rates)) == len(shares):
                break
        return rates


@dataclass(frozen=True)
class MethodEntry:
    """A method of a suite.

    Args:
        learning_rates: Rates by base model; the key None is for every other model. Several rates are a search.
        tasks: Names of the tasks that the entry covers; empty for all.
        models: Names of the base models that it covers; empty for all.
    """

    label: str
    method: Method
    learning_rates: dict[str | None, tuple[float, ...]]
    tasks: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    ranges: tuple[Range, ...] = ()

    def is_for(self, task: str, model: str) -> bool:
        """Return True if the suite runs the method on this task and base model."""
        return (not self.tasks or task in self.tasks) and (not self.models or model in self.models)

    def rates(self, model: str) -> tuple[float, ...]:
        """Return the learning rates for a base model."""
        if model in self.learning_rates:
            return self.learning_rates[model]
        return self.learning_rates.get(None, (type(self.method).learning_rate,))


def read_each(document: Document, name: str, faults: list[Fault], read: Callable[[Key, Any], PartT]) -> list[PartT]:
    """Read every readable entry of a list, and add the faults of the others to *faults*."""
    entries = document.data.get(name)
    parts: list[PartT] = []
    for index, entry in enumerate(entries if isinstance(entries, list) else []):
        key: Key = (name, index)
        if not isinstance(entry, str | dict):
            continue  # the file's own schema reports it
        try:
            parts.append(read(key, entry))
        except BadInput as error:
            faults += error.faults
        except LoraBenchError as error:
            faults.append(document.fault(key, str(error)))
    return parts


def read_task(document: Document, key: Key, entry: Any, base: Path) -> tuple[Task, Path]:
    """Return a task, given by name or written out, and the folder that its paths start from."""
    if isinstance(entry, str):
        if entry not in task_files() and format_of(entry) is not None:
            raise LoraBenchError(_as_task(entry, base))
        return load_task(entry), task_files()[entry].parent
    if "like" in entry:
        document = _with_rest(document, key, entry)
    return task_from_document(document, key, base=base), base


def read_tasks(document: Document, key: Key, entry: Any, base: Path) -> list[tuple[Task, Path]]:
    """Return the tasks of an entry: one, or with `by: COLUMN` one for each value of the column, or of those that `rows` has."""
    if not isinstance(entry, dict) or "by" not in entry:
        return [read_task(document, key, entry, base)]
    column, name, place = entry["by"], str(key[0]), int(key[1])
    if not isinstance(column, str):
        raise BadInput([document.fault((*key, "by"), f"must be the name of a column, got {column!r}")])
    entries = list(document.data[name])
    entries[place] = {own: value for own, value in entry.items() if own != "by"}
    document = replace(document, data={**document.data, name: entries})
    task, base = read_task(document, key, entries[place], base)
    values = task.rows.get(column) or tuple(values_of(task, base, column))
    rows = [{**task.rows, column: (value,)} for value in values]
    names = names_by_value(task.task, values)
    return [(task.model_copy(update={"task": names[v], "rows": of}), base) for v, of in zip(values, rows, strict=True)]


def names_by_value(task: str, values: Sequence[str]) -> dict[str, str]:
    """Return the name of the task of each value of a column, fit for a file on every system."""
    shown = {value: re.sub(r"[^A-Za-z0-9._]+", "-", value).strip("-.")[:40] for value in values}
    times = Counter(name.casefold() for name in shown.values())
    return {
        value: f"{task[:50]}-{name}"
        if name and times[name.casefold()] == 1
        else f"{task[:50]}-{name}-{content_hash(value)[:8]}"
        for value, name in shown.items()
    }


def _with_rest(document: Document, key: Key, entry: Mapping[str, Any]) -> Document:
    """Return a document in which a task `like` another has its other keys; it must have a name or version of its own."""
    given = {name: value for name, value in entry.items() if name != "like"}
    try:
        known = load_task(str(entry["like"]))
    except LoraBenchError as error:
        raise BadInput([document.fault((*key, "like"), str(error))]) from None
    if (given.get("task", known.task), given.get("version", known.version)) == (known.task, known.version):
        said = f"must be another name than {known.task!r}, whose data this splits anew, or have another `version`"
        raise BadInput([document.fault((*key, "task"), said)])
    rest = known.model_dump(mode="json", exclude_unset=True)
    if "metric" in given:
        rest.pop("higher_is_better", None)
    name, place = str(key[0]), int(key[1])
    entries = list(document.data[name])
    entries[place] = rest | given
    return replace(document, data={**document.data, name: entries})


def _as_task(file: str, base: Path) -> str:
    """Return the answer to a file in place of a task: the task of it, with the columns that `lora-bench init` would guess."""
    try:
        written = task_flow(look(base / Path(file).expanduser()), base)
    except (LoraBenchError, RuntimeError):  # there is no such file, or no column that looks like a label
        written = f"{{task: {name_of(file)}, data: {as_yaml(file)}, text: COLUMN, label: COLUMN}}"
    return f"{file!r} is a file, and a task also says its columns: write {written}"


def read_model(document: Document, key: Key, entry: Any) -> ModelEntry:
    """Return a base model, given by name or as a mapping with `model`."""
    return ModelEntry(model=entry) if isinstance(entry, str) else validate(ModelEntry, document, key)


def read_method(document: Document, key: Key, entry: Any) -> MethodEntry:
    """Return a method, given by name or as a mapping with `method`, its options, and more keys.

    Keys:
        method: Name of the method, or of a preset: its options and rate, where others are not given.
        label: Name in reports; this name by default. Two entries of one method need different labels.
        learning_rate: Number, list of numbers to try, range, or mapping from base models to these, with `default` for the
            others. By default the method's own.
        tasks: Tasks to run it on; all by default.
        models: Base models to run it on; all by default.

    Raise BadInput with every fault of the entry; LoraBenchError if no method has the name, or the method needs options.
    """
    presets = known_presets()
    known = known_methods() | {name: method for name, (method, _) in presets.items()}
    if isinstance(entry, str):
        if entry in presets:
            return _of_preset(presets[entry][1], MethodEntry(entry, known[entry](), {}))
        if entry not in known:
            raise unknown_method(entry)
        try:
            return MethodEntry(entry, known[entry](), {})
        except ValidationError as error:
            needed = ", ".join(str(detail["loc"][0]) for detail in error.errors())
            raise LoraBenchError(f"method {entry!r} needs {needed}: write {{method: {entry}, {needed}: …}}") from None
    name = entry.get("method")
    if not isinstance(name, str):
        raise BadInput([document.fault(key, "a method must be a name, or a mapping with the key 'method'")])
    if name not in known:
        raise BadInput([document.fault((*key, "method"), str(unknown_method(name)))])
    label = entry.get("label", name)
    faults = []
    if not isinstance(label, str) or not label:
        faults.append(document.fault((*key, "label"), f"must be text, got {label!r}"))
    only: dict[str, tuple[str, ...]] = {}
    for part in ("tasks", "models"):
        names = entry.get(part, [])
        names = [names] if isinstance(names, str) else names
        if not isinstance(names, list) or not all(isinstance(each, str) for each in names):
            faults.append(document.fault((*key, part), f"must be a name or a list of names, got {names!r}"))
        else:
            only[part] = tuple(names)
    rates: dict[str | None, tuple[float, ...]] = {}
    ranges: list[Range] = []
    with collecting(faults):
        if "learning_rate" in entry:
            rates = _rates(document, (*key, "learning_rate"), entry["learning_rate"], ranges)
    try:
        method = validate(known[name], document, key, without=("method", "label", "learning_rate", "tasks", "models"))  # type: ignore[type-var]
    except BadInput as error:
        raise BadInput([*error.faults, *faults]) from None
    refuse(faults)
    found = MethodEntry(label, method, rates, **only, ranges=tuple(ranges))
    return found if name not in presets else _of_preset(presets[name][1], found)


def _of_preset(preset: Preset, entry: MethodEntry) -> MethodEntry:
    """Return an entry with the options and the learning rate of a preset where it gives none."""
    given = {name: getattr(entry.method, name) for name in entry.method.model_fields_set}  # type: ignore[attr-defined]  # Strict
    method = type(entry.method)(**{**preset.options, **given})
    rates = entry.learning_rates
    if preset.learning_rate is not None and None not in rates:
        rates = {**rates, None: (preset.learning_rate,)}
    return replace(entry, method=method, learning_rates=rates)


def _rates(document: Document, key: Key, value: Any, ranges: list[Range]) -> dict[str | None, tuple[float, ...]]:
    """Return rates by base model from a number, list, range, or mapping to these; its ranges are added to *ranges*."""
    if isinstance(value, dict) and not value.keys() & Range.model_fields.keys():
        rates: dict[str | None, tuple[float, ...]] = {}
        for model, rate in value.items():
            rates[None if model == "default" else model] = _rate_list(document, (*key, model), rate, ranges)
        return rates
    return {None: _rate_list(document, key, value, ranges)}


def _rate_list(document: Document, key: Key, rates: Any, ranges: list[Range]) -> tuple[float, ...]:
    if isinstance(rates, dict):
        ranges.append(validate(Range, document, key))
        trials = _said(document, "budget", "trials")
        if not isinstance(trials, int) or trials < 1:
            raise BadInput(
                [document.fault(key, "is a range, of which `budget: {trials: N}` takes N rates; give their number")]
            )
        return ranges[-1].take(_begun(document, trials))
    values = rates if isinstance(rates, list) else [rates]
    if not values or not all(
        isinstance(value, int | float) and not isinstance(value, bool) and value > 0 for value in values
    ):
        raise BadInput([document.fault(key, f"must be a positive number or a list of them, got {rates!r}")])
    return tuple(float(value) for value in values)


def _begun(document: Document, trials: int) -> int:
    """Return the number of rates at the start: one for each trial, or as many as the first rung has."""
    if not isinstance(document.data.get("tuning"), dict):
        return trials
    try:
        tuning = validate(Tuning, document, ("tuning",))
        return trials if tuning.halving is None else rungs_of(trials, tuning.halving, tuning.rungs)[0].trials
    except LoraBenchError:
        return trials  # its fault is reported once, and not for every range


def _said(document: Document, part: str, name: str) -> Any:
    """Return a key of a part of the suite, which may not be valid yet."""
    keys = document.data.get(part)
    return keys.get(name) if isinstance(keys, dict) else None
