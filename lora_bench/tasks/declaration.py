"""A task as people write it: a data set at a pinned revision, its columns, and the metric.

One YAML file in `tasks/`, or a few lines in a suite. Each key is checked by its type, then the keys against each
other (`contradictions`), and every fault is reported with its line. Where the rows come from is in `sources`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, JsonValue, model_validator

from lora_bench.documents import Strict
from lora_bench.errors import LoraBenchError
from lora_bench.metrics import higher_is_better
from lora_bench.tasks.linearise import Linearise
from lora_bench.tasks.sources import (
    Columns,
    Data,
    LabelKey,
    Local,
    Part,
    TextKey,
    UnevenRows,
    file_as_data,
    names_as_text,
)
from lora_bench.tasks.tables import Format
from lora_bench.util.filenames import Name

Kind = Literal["classification", "regression", "generation"]

USUAL_METRIC: dict[str, str] = {"classification": "accuracy", "regression": "pearson", "generation": "bleu"}

# Keys that tasks gained after the first records: a definition leaves them out while they have their default, so that a
# new key gives no run another id.
_LATER_KEYS: tuple[tuple[str, ...], ...] = (
    ("metrics",),
    ("label_names",),
    ("uneven_rows",),
    ("empty_texts",),
    ("linearise",),
    ("subsets",),
    ("data", "also"),
    ("data", "splits", "also"),
    ("label", "where"),
)


class Shares(Strict):
    """How rows are dealt out where the data does not come in three splits.

    Args:
        train: Share of the training split.
        selection: Share of the selection split.
        test: Share of the test split.
        by: Column whose value decides, so that rows of equal value stay together; the text by default.
        before: Only what stands before this in the value counts: "_" for the document in ids like `12_3`.
    """

    train: float = Field(default=0.8, gt=0, lt=1)
    selection: float = Field(default=0.1, gt=0, lt=1)
    test: float = Field(default=0.1, gt=0, lt=1)
    by: str | None = None
    before: str | None = Field(default=None, min_length=1)


class Subsets(Strict):
    """Parts of the test split that are scored apart too.

    Args:
        column: Whose value tells the part.
        parts: The values of each part, by its name.
        rest: Name of the part with all other values; by default they are in none.
    """

    column: str
    parts: dict[str, Columns]
    rest: str | None = None


class Task(Strict):
    """A task as people write it.

    Args:
        task: Its name.
        version: Raised when the same data would give other examples.
        about: What it is, in a sentence or two.
        kind: "classification", "regression" or "generation".
        data: Where the rows are; a plain string is a file.
        local: The layout in which the set circulates as files, for `--data-dir`.
        format: Format of the files where their suffix does not tell.
        columns: Names of the columns of csv and tsv files without a header.
        quoting: Whether quotation marks enclose values in csv and tsv.
        uneven_rows: What happens to rows of csv and tsv with too few or too many values: "refuse" or "leave_out".
        empty_texts: Whether rows of local files without a text are kept: "refuse" or "keep".
        text: The text's column, or two columns for a pair of texts; `a.b` is the value b inside column a.
        linearise: How a structured value becomes the input text; only for generation.
        label: The label's column, or a rule that makes a label of it; for generation the text to write.
        labels: Class names in the order of their indexes; by default the sorted values of the training rows.
        label_names: The class names of what stands in the label's column, where that is something else.
        id: Column of example ids, by which runs are paired; by default the number of the row.
        metric: What is compared between runs; accuracy, pearson or bleu by default.
        metrics: What is computed beside it.
        higher_is_better: Its direction; the metric's own by default.
        split: How rows are dealt out where the data does not come in three splits.
        subsets: Parts of the test split that are scored apart too.
        licence: Of the data.
        citation: Whom to credit.
    """

    task: Name
    version: int = Field(default=1, ge=1)
    about: str = ""
    kind: Kind = "classification"
    data: Annotated[Data, BeforeValidator(file_as_data, json_schema_input_type=str | Data)]
    local: Local | None = None
    format: Format | None = None
    columns: Columns | None = None
    quoting: bool = True
    uneven_rows: UnevenRows = "refuse"
    empty_texts: Literal["refuse", "keep"] = "refuse"
    text: TextKey
    linearise: Linearise | None = None
    label: LabelKey
    labels: Annotated[tuple[str, ...], BeforeValidator(names_as_text)] | None = None
    label_names: dict[str, str] = Field(default_factory=dict)
    id: str | None = None
    metric: str = "accuracy"
    metrics: Columns = ()
    higher_is_better: bool = True
    split: Shares | None = None
    subsets: Subsets | None = None
    licence: str = ""
    citation: str = ""

    @model_validator(mode="before")
    @classmethod
    def _usual_metric(cls, given: Any) -> Any:
        """The kind tells the metric, and the metric its direction, where they are not said."""
        if not isinstance(given, dict):
            return given
        metric = given.get("metric", USUAL_METRIC.get(str(given.get("kind")), "accuracy"))
        try:
            direction = higher_is_better(metric) if isinstance(metric, str) else None
        except LoraBenchError:  # an unknown name is reported with its line, together with every other fault
            direction = None
        return {"metric": metric, **({} if direction is None else {"higher_is_better": direction}), **given}

    @property
    def all_metrics(self) -> tuple[str, ...]:
        """The metric and those beside it."""
        return (self.metric, *self.metrics)

    @property
    def shares(self) -> Shares | None:
        """How rows are dealt out, or None where the data comes in three splits."""
        if self.data.has_splits and self.data.has_selection:
            return None
        return self.split or Shares()

    @property
    def wanted(self) -> frozenset[str]:
        """The columns that are read of every part."""
        by = self.shares.by if self.shares is not None else None
        named = (*self.text, self.label.column, *self.label.where, self.id, by)
        return frozenset(name for name in named if name is not None)

    def of_part(self, part: str) -> Task:
        """The task as it is for one file: with that file's own columns where it has some."""
        own = self.data.also.get(part)
        if own is None or isinstance(own, str):
            return self
        return with_part(self, own)


def with_part(task: Task, part: Part) -> Task:
    """The task with the columns of a file that describes itself; such a file is not split, and names its classes."""
    return task.model_copy(
        update={
            "columns": part.columns,
            "text": part.text or task.text,
            "label": part.label or task.label,
            "id": part.id,
            "split": None,
        }
    )


def task_from_definition(definition: Mapping[str, JsonValue]) -> Task:
    """The task that `definition` wrote down."""
    return Task.model_validate_json(json.dumps(definition))


def definition(task: Task) -> dict[str, JsonValue]:
    """A task as plain data, with every default written out but those of later keys.

    The layout of its files is left out: once it is used, its values are the task's own (`in_folder`).
    """
    content: dict[str, JsonValue] = task.model_dump(mode="json", exclude={"local"})
    said: dict[str, JsonValue] = task.model_dump(mode="json", exclude_defaults=True)
    for *outer, key in _LATER_KEYS:
        inside, said_inside = _at(content, outer), _at(said, outer)
        if inside is not None and key not in (said_inside or {}):
            del inside[key]
    shares = task.shares.model_dump() if task.shares is not None else None
    if shares is not None and shares["before"] is None:
        del shares["before"]
    return {**content, "split": shares}


def _at(content: Any, keys: list[str]) -> dict[str, JsonValue] | None:
    for key in keys:
        content = content.get(key) if isinstance(content, dict) else None
    return content if isinstance(content, dict) else None
