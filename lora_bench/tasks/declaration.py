"""A task as people write it: a data set at a pinned revision, its columns, and the metric.

One YAML file in `tasks/`, or a few lines in a suite. Each key is checked by its type, then the keys against each
other, and every fault is reported with its line.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, JsonValue, model_validator

from lora_bench.assets import known_assets
from lora_bench.documents import Document, Key, Strict, read_yaml, validate
from lora_bench.errors import BadInput, did_you_mean, unknown
from lora_bench.metrics import known_metrics
from lora_bench.resources import task_files
from lora_bench.tasks.tables import Format, format_of

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"


class HubSplits(Strict):
    """The hub's names for the three splits; without `selection`, a part of `train` is set aside for it."""

    train: str
    selection: str | None = None
    test: str


class Data(Strict):
    """Where the rows are: one of `file`, `asset` with `file`, `train` and `test` (and `selection`), or `hub`.

    Args:
        file: One file, to be split; with `asset`, a path inside it.
        asset: A named asset of `lora_bench.assets`.
        train: File of the training split.
        selection: File of the selection split.
        test: File of the test split.
        hub: A data set on the Hugging Face hub, as `owner/name`.
        name: Its configuration.
        revision: Its commit, or a branch or tag, which may mean other data tomorrow.
        splits: The hub's names for the splits.
    """

    file: str | None = None
    asset: str | None = None
    train: str | None = None
    selection: str | None = None
    test: str | None = None
    hub: str | None = None
    name: str | None = None
    revision: str | None = None
    splits: HubSplits | None = None

    @property
    def has_splits(self) -> bool:
        """Whether train and test are given apart."""
        return self.hub is not None or self.file is None

    @property
    def has_selection(self) -> bool:
        """Whether the selection split is given."""
        return self.selection is not None or (self.splits is not None and self.splits.selection is not None)

    @property
    def files(self) -> dict[str, str]:
        """Local files by what they hold: a split, or "all" for one that is to be split."""
        if self.asset is not None or self.hub is not None:
            return {}
        if self.file is not None:
            return {"all": self.file}
        given = {"train": self.train, "selection": self.selection, "test": self.test}
        return {split: file for split, file in given.items() if file is not None}


class Label(Strict):
    """Where a row's label is.

    Args:
        column: Its column.
        rule: "sign" makes two classes of a number, negative and positive, and drops rows with zero.
    """

    column: str
    rule: Literal["sign"] | None = None


class Shares(Strict):
    """How rows are dealt out where the data does not come in three splits.

    Args:
        train: Share of the training split.
        selection: Share of the selection split.
        test: Share of the test split.
        by: Column whose value decides, so that rows of equal value stay together; the text by default.
    """

    train: float = Field(default=0.8, gt=0, lt=1)
    selection: float = Field(default=0.1, gt=0, lt=1)
    test: float = Field(default=0.1, gt=0, lt=1)
    by: str | None = None


def _file_as_data(given: Any) -> Any:
    return {"file": given} if isinstance(given, str) else given


def _column_as_label(given: Any) -> Any:
    return {"column": given} if isinstance(given, str) else given


def _one_text(given: Any) -> Any:
    return (given,) if isinstance(given, str) else tuple(given) if isinstance(given, list) else given


def _names(given: Any) -> Any:
    """Class names; `labels: [0, 1]` means the text that the data has."""
    if not isinstance(given, list | tuple):
        return given
    return tuple(str(name) if isinstance(name, int) and not isinstance(name, bool) else name for name in given)


class Task(Strict):
    """A task as people write it.

    Args:
        task: Its name.
        version: Raised when the same data would give other examples.
        about: What it is, in a sentence or two.
        kind: "classification" or "regression".
        data: Where the rows are; a plain string is a file.
        format: Format of the files where their suffix does not tell.
        columns: Names of the columns of csv and tsv files without a header.
        quoting: Whether quotation marks enclose values in csv and tsv.
        text: The text's column, or two columns for a pair of texts.
        label: The label's column, or a rule that makes a label of it.
        labels: Class names in the order of their indexes; by default the sorted values of the training rows.
        id: Column of example ids, by which runs are paired; by default the number of the row.
        metric: What is compared between runs; accuracy or pearson by default.
        higher_is_better: Its direction.
        split: How rows are dealt out where the data does not come in three splits.
        licence: Of the data.
        citation: Whom to credit.
    """

    task: str = Field(pattern=NAME)
    version: int = Field(default=1, ge=1)
    about: str = ""
    kind: Literal["classification", "regression"] = "classification"
    data: Annotated[Data, BeforeValidator(_file_as_data, json_schema_input_type=str | Data)]
    format: Format | None = None
    columns: Annotated[tuple[str, ...], BeforeValidator(_one_text)] | None = None
    quoting: bool = True
    text: Annotated[tuple[str, ...], BeforeValidator(_one_text, json_schema_input_type=str | tuple[str, str])]
    label: Annotated[Label, BeforeValidator(_column_as_label, json_schema_input_type=str | Label)]
    labels: Annotated[tuple[str, ...], BeforeValidator(_names)] | None = None
    id: str | None = None
    metric: str = "accuracy"
    higher_is_better: bool = True
    split: Shares | None = None
    licence: str = ""
    citation: str = ""

    @model_validator(mode="before")
    @classmethod
    def _usual_metric(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("kind") == "regression":
            return {"metric": "pearson", **given}
        return given

    @property
    def shares(self) -> Shares | None:
        """How rows are dealt out, or None where the data comes in three splits."""
        if self.data.has_splits and self.data.has_selection:
            return None
        return self.split or Shares()

    @property
    def wanted(self) -> frozenset[str]:
        """The columns that are read."""
        by = self.shares.by if self.shares is not None else None
        return frozenset(name for name in (*self.text, self.label.column, self.id, by) if name is not None)


def load_task(name: str) -> Task:
    """The task that has a name; its paths are seen from the folder of its file (`resources.task_files`).

    Raises:
        LoraBenchError: If there is none, with the nearest name.
        BadInput: With every fault of its file.
    """
    files = task_files()
    if name not in files:
        raise unknown("task", name, files)
    document = read_yaml(files[name])
    task = task_from_document(document)
    if task.task != name:
        raise BadInput([document.fault(("task",), f"must be {name!r} like the file, got {task.task!r}")])
    return task


def task_from_document(document: Document, key: Key = ()) -> Task:
    """The task at *key* of a YAML file; the whole file by default.

    Raises:
        BadInput: With every fault.
    """
    task = validate(Task, document, key)
    faults = [document.fault((*key, *at), message) for at, message in _contradictions(task)]
    if faults:
        raise BadInput(faults)
    return task


def task_from_definition(definition: Mapping[str, JsonValue]) -> Task:
    """The task that `definition` wrote down."""
    return Task.model_validate_json(json.dumps(definition))


def definition(task: Task) -> dict[str, JsonValue]:
    """A task as plain data, with every default written out."""
    content: dict[str, JsonValue] = task.model_dump(mode="json")
    return {**content, "split": task.shares.model_dump() if task.shares is not None else None}


def _contradictions(task: Task) -> Iterator[tuple[Key, str]]:
    """What each key allows alone and the keys together do not."""
    yield from _faults_of_data(task.data)
    yield from _faults_of_labels(task)
    yield from _faults_of_split(task)
    if not 1 <= len(task.text) <= 2 or len(set(task.text)) < len(task.text):
        yield ("text",), "must be one column, or a list of two"
    if task.format is None and task.data.hub is None:
        named = {"all": task.data.file} if task.data.asset is not None else task.data.files
        for file in named.values():
            if file is not None and format_of(file) is None:
                yield (
                    ("data",),
                    f"{file!r} has no suffix that tells its format; say `format: csv`, tsv, jsonl or parquet",
                )
    formats = {task.format} if task.format else {format_of(file) for file in task.data.files.values()}
    if task.data.hub is not None or formats & {"jsonl", "parquet"}:
        for key in ("columns", "quoting"):
            if key in task.model_fields_set:
                yield (key,), "is only for csv and tsv"
    if task.columns is not None:
        for name in sorted(task.wanted - set(task.columns)):
            yield ("columns",), f"does not name {name!r}, which the task uses{did_you_mean(name, task.columns)}"


def _faults_of_data(data: Data) -> Iterator[tuple[Key, str]]:
    given = data.model_fields_set
    ways = {
        "file": {"file", "asset"},
        "train": {"train", "selection", "test"},
        "hub": {"hub", "name", "revision", "splits"},
    }
    used = [way for way, keys in ways.items() if given & keys]
    if len(used) != 1:
        yield (
            ("data",),
            "must be a file, an asset with a file in it, files for train and test, or a hub data set"
            + (f"; got {', '.join(sorted(given))}" if given else ""),
        )
    elif used == ["file"]:
        if data.file is None:
            yield ("data",), "must say which `file` of the asset"
        if data.asset is not None and data.asset not in known_assets():
            yield ("data", "asset"), str(unknown("asset", data.asset, known_assets()))
    elif used == ["train"]:
        for split in ("train", "test"):
            if getattr(data, split) is None:
                yield ("data",), f"{split} is missing; to split one file, write `data: FILE`"
    else:
        for key in ("hub", "revision", "splits"):
            if getattr(data, key) is None:
                yield ("data", key), "is missing, and a hub data set needs it"


def _faults_of_labels(task: Task) -> Iterator[tuple[Key, str]]:
    kinds = known_metrics()
    if task.metric not in kinds:
        yield ("metric",), str(unknown("metric", task.metric, kinds))
    elif kinds[task.metric] != task.kind:
        fitting = ", ".join(name for name, kind in kinds.items() if kind == task.kind)
        yield (
            ("metric",),
            f"{task.metric!r} is for {kinds[task.metric]}, and the task's kind is {task.kind} ({fitting})",
        )
    if task.kind == "regression":
        if task.labels is not None:
            yield ("labels",), "is only for classification; the kind is regression"
        if task.label.rule is not None:
            yield ("label", "rule"), "makes classes, but the kind is regression"
        return
    if task.labels is not None:
        if len(set(task.labels)) < max(2, len(task.labels)):
            yield ("labels",), f"must be at least two different class names, got {list(task.labels)}"
        elif task.label.rule == "sign" and len(task.labels) != 2:
            yield ("labels",), f"must be two, the negative one first, for the rule 'sign'; got {len(task.labels)}"
    elif task.metric == "f1" and task.label.rule is None:
        yield ("labels",), "is missing: f1 is that of the second class, so the order must be said"


def _faults_of_split(task: Task) -> Iterator[tuple[Key, str]]:
    if task.split is None:
        return
    given = task.split.model_fields_set
    if task.data.has_splits and task.data.has_selection:
        yield ("split",), "must go: the data already comes in three splits"
    elif task.data.has_splits:
        for share in sorted(given & {"train", "test"}):
            yield ("split", share), "must go: the data has a test split, and `selection` is taken from train"
    elif not math.isclose(task.split.train + task.split.selection + task.split.test, 1):
        shares = f"{task.split.train:g} + {task.split.selection:g} + {task.split.test:g}"
        yield ("split",), f"must add up to 1, got {shares} (train + selection + test)"
