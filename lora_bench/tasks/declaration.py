"""The declaration of a task: a data set at a pinned revision, its columns, and the metric.

A task is one YAML file in `tasks/`, or a few lines in a suite. The type of each key is checked here, keys against each other
in `load_task`, and every fault has its line. `sources` declares where the rows come from.
"""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, JsonValue, PrivateAttr, model_validator

from lora_bench.documents import Strict
from lora_bench.errors import LoraBenchError
from lora_bench.kinds import KindName, find_kind, known_kinds
from lora_bench.kinds.support.linearise import Linearise
from lora_bench.kinds.support.row_values import Columns
from lora_bench.kinds.support.task_kind import TaskKind
from lora_bench.metrics import higher_is_better, kind_of
from lora_bench.tasks import sources
from lora_bench.tasks.source_tables import Format
from lora_bench.util.filenames import Name

# Keys that tasks gained after the first records: a definition leaves them out while they have their default, so that a
# new key gives no run another id.
_LATER_KEYS = (
    "metrics", "label_names", "uneven_rows", "unlabelled_rows", "delimiter", "encoding", "empty_texts", "linearise", "subsets",
    "spelling", "data.also", "data.splits.also", "label.where", "chat_template", "label.start", "unanswerable",
    "prompt", "chosen", "rejected", "beta", "rows",
)  # fmt: skip


class Shares(Strict):
    """Shares of the splits, for data that does not come in three.

    Args:
        train: Share of this split.
        selection: Share of this split.
        test: Share of this split.
        by: Column whose equal values stay together; the text by default.
        before: Use the value up to this: "_" gives the document in ids like `12_3`.
        phrases: True if rows are parts of other rows, as phrases of sentences: each stays with the longest that has its words.
        more_test: Share of the training rows that joins the data's own test split, where that is small.
        column: Column that names the split of each row; one that no row names is taken from train.
        in_order: Column of dates or numbers: the last rows are test, those before them selection.
        folds: Number of rotating folds, in place of the shares of train and test: the run of seed k tests fold k, so that
            these seeds test every row once.
        stratify: True if each split gets its share of every class, and of rows whose text dealt them out before. A new row may
            move others to another split, which a hash alone never does.
    """

    train: float = Field(default=0.8, gt=0, lt=1)
    selection: float = Field(default=0.1, gt=0, lt=1)
    test: float = Field(default=0.1, gt=0, lt=1)
    by: str | None = None
    before: str | None = Field(default=None, min_length=1)
    phrases: bool = False
    more_test: float = Field(default=0.0, ge=0, lt=1)
    column: str | None = None
    in_order: str | None = None
    folds: int | None = Field(default=None, ge=2, le=100)
    stratify: bool = False


class Subsets(Strict):
    """Subsets of the test split to score apart too.

    Args:
        column: Column that gives the subset.
        parts: Values of each subset, by its name.
        rest: Name of the subset of all other values; none by default.
    """

    column: str
    parts: dict[str, Columns]
    rest: str | None = None


class Task(Strict):
    """A task.

    Args:
        task: Name of the task.
        version: Raised when the same data would give other examples.
        about: Description, in a sentence or two.
        kind: Kind of the task: what a row has, and what a model answers.
        data: Source of the rows: `file`, `train` and `test` (and `selection`), an `asset` with either, or `hub`. A string is
            a file.
        local: Layout of the set's files, for `--data-dir`; missing keys are the task's own.
        release: Counts and hashes of the data as released; no part of a run's id.
        format: Format of the files, if their suffix does not give it.
        columns: Column names of csv and tsv files without a header; of conll files, by default `words`, the first, and `tags`,
            the last.
        quoting: False if quotation marks in csv and tsv belong to the text.
        delimiter: Character between the values of csv and tsv; a comma or a tab by default.
        encoding: Text encoding of csv and tsv, such as cp1252; UTF-8 by default.
        uneven_rows: Csv and tsv rows with too few or too many values: "refuse" or "leave_out".
        unlabelled_rows: Rows without a label: "refuse" or "leave_out", which counts them.
        rows: Values of columns that a row must have to be used, such as `{customer: [acme, bolt]}`; all rows by default.
        empty_texts: Rows of local files without a text: "refuse" or "keep".
        text: Column of the text, or two for a pair; `a.b` is the value b inside column a. For tokens the words: a list, JSON
            text of one, or words separated by spaces. For spans the question and the text.
        linearise: Rule that makes the input of a structured value, for generation.
        label: Column of the label or of the text to write, a rule, or columns of 0 and 1 for several labels. For tokens the
            labels of the words, in the same forms. For spans the answers as in SQuAD, or one as a text. None for a chat whose
            `text` has whole conversations.
        chat_template: Template of a chat, or a file of it; the tokenizer's own by default.
        prompt: For preference the column of the prompt, a text or messages; `prompt` by default.
        chosen: For preference the column of the better answer; `chosen` by default.
        rejected: For preference the column of the worse answer; `rejected` by default.
        beta: For preference the factor on the log-ratio to the starting model, above 0; 0.1 by default. The greater, the
            nearer the model stays to that.
        unanswerable: True if questions may have no answer, as in SQuAD 2.0.
        spelling: Spelling of the texts to write: "tokens" puts spaces between words and signs.
        labels: Class names in the order of their indexes; by default the sorted values of the training rows.
        label_names: Class name of each value of the label, if they differ.
        id: Column of example ids, by which runs are paired; the row number by default.
        metric: Metric to compare runs by; accuracy, pearson, bleu, seqeval_f1, multilabel_micro_f1, squad_f1 or loss by
            default.
        metrics: Further metrics.
        higher_is_better: Direction of the metric; its own by default.
        split: Shares of the splits, for data that does not come in three.
        subsets: Subsets of the test split to score apart too.
        licence: Licence of the data. Reports list texts of test items if it is open, or if local files state none.
        citation: Reference to credit.
    """

    # An editor accepts a chat without a label, and pairs of answers without a text too.
    model_config = ConfigDict(json_schema_extra=lambda schema: schema.update(required=["task", "data"]))

    task: Name
    version: int = Field(default=1, ge=1)
    about: str = ""
    kind: KindName = "classification"
    data: Annotated[sources.Data, BeforeValidator(sources.file_as_data, json_schema_input_type=str | sources.Data)]
    local: sources.Local | None = None
    release: sources.Release | None = None
    format: Format | None = None
    columns: Columns | None = None
    quoting: bool = True
    delimiter: str | None = None
    encoding: sources.Encoding | None = None
    uneven_rows: sources.UnevenRows = "refuse"
    unlabelled_rows: Literal["refuse", "leave_out"] = "refuse"
    rows: dict[str, Annotated[Columns, BeforeValidator(sources.names_as_text)]] = Field(default_factory=dict)
    empty_texts: Literal["refuse", "keep"] = "refuse"
    text: sources.TextKey
    linearise: Linearise | None = None
    label: sources.LabelKey
    chat_template: str | None = Field(default=None, min_length=1)
    prompt: str | None = None
    chosen: str | None = None
    rejected: str | None = None
    beta: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    unanswerable: bool = False
    spelling: Literal["tokens"] | None = None
    labels: Annotated[tuple[str, ...], BeforeValidator(sources.names_as_text)] | None = None
    label_names: dict[str, str] = Field(default_factory=dict)
    id: str | None = None
    metric: str = "accuracy"
    metrics: Columns = ()
    higher_is_better: bool = True
    split: Shares | None = None
    subsets: Subsets | None = None
    licence: str = ""
    citation: str = ""

    # No key of a file: a user's consent comes from the command line. By `script_name`, the hash of the code that may run.
    _allowed_code: dict[str, str] = PrivateAttr(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _usual_metric(cls, given: Any) -> Any:
        """Fill in what is missing: what the kind tells, the metrics by the kind, and the metric's direction."""
        if not isinstance(given, dict):
            return given
        kind = known_kinds().get(str(given.get("kind")), find_kind("classification"))
        given = kind.filled_in(given)
        metric = given.get("metric", kind.usual_metric)
        try:
            direction = higher_is_better(metric) if isinstance(metric, str) else None
        except LoraBenchError:  # an unknown name is reported with its line, together with every other fault
            direction = None
        usual: dict[str, Any] = {"metric": metric, **({} if direction is None else {"higher_is_better": direction})}
        if kind.usual_metrics:
            usual["metrics"] = [name for name in kind.usual_metrics if name != metric]
        return {**usual, **given}

    @property
    def kind_of(self) -> TaskKind:
        """Its kind."""
        return find_kind(self.kind)

    @property
    def writes(self) -> bool:
        """True if its answers are texts."""
        return self.kind_of.writes

    @property
    def weighs(self) -> bool:
        """True if a metric reads how likely the right texts are to the model."""
        return any(kind_of(name) == "likelihood" for name in self.all_metrics)

    @property
    def completes(self) -> bool:
        """True if a metric reads texts that the model writes."""
        return self.writes and any(kind_of(name) != "likelihood" for name in self.all_metrics)

    @property
    def all_metrics(self) -> tuple[str, ...]:
        """The metric and the further metrics."""
        return (self.metric, *self.metrics)

    @property
    def allowed_code(self) -> dict[str, str]:
        """The hash of each script among its metrics that may run, by the script's name."""
        return dict(self._allowed_code)

    def allowing(self, code: Mapping[str, str]) -> Self:
        """The task with scripts that may run to score it; see `lora_bench.suite.consent`."""
        allowed = self.model_copy()
        allowed._allowed_code = dict(code)
        return allowed

    @property
    def shares(self) -> Shares | None:
        """The shares of the splits; None if the data comes in three splits."""
        if self.data.has_all_splits:
            return None
        return self.split or Shares()

    @property
    def folds(self) -> int | None:
        """The number of rotating folds; None if all runs have one test split."""
        return self.shares.folds if self.shares is not None else None

    def fold_of(self, seed: int) -> int | None:
        """Return the fold that the run of a seed tests; None without folds."""
        return None if self.folds is None else seed % self.folds

    @property
    def wanted(self) -> frozenset[str]:
        """The columns to read of every part."""
        of_split = (self.shares.by, self.shares.column, self.shares.in_order) if self.shares is not None else ()
        named = (
            *self.text, self.label.column or None, *self.label.columns, self.label.start, *self.label.where, self.id, *of_split,
            *self.rows,
        )  # fmt: skip
        return frozenset(name for name in named if name is not None)

    def of_part(self, part: str) -> "Task":
        """Return the task for one file, with that file's own columns if it has any."""
        own = self.data.also.get(part)
        if own is None or isinstance(own, str):
            return self
        return with_part(self, own)


def with_part(task: Task, part: sources.Part) -> Task:
    """Return the task with the columns of a self-describing file, which is not split and names its classes."""
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
    """Return the task that `definition` wrote."""
    return Task.model_validate_json(json.dumps(definition))


def definition(task: Task) -> dict[str, JsonValue]:
    """Return a task as plain data, with every default written out but those of later keys.

    The layout of its files is left out: once used, its values are the task's own (`in_folder`). So are the facts of its
    release: they say what the data should be, and the record's hash what it is.
    """
    content: dict[str, JsonValue] = task.model_dump(mode="json", exclude={"local", "release"})
    said: dict[str, JsonValue] = task.model_dump(mode="json", exclude_defaults=True)
    for *outer, key in (path.split(".") for path in _LATER_KEYS):
        inside, said_inside = _at(content, outer), _at(said, outer)
        if inside is not None and key not in (said_inside or {}):
            del inside[key]
    shares = task.shares.model_dump() if task.shares is not None else None
    for key in ("before", "phrases", "more_test", "column", "in_order", "folds", "stratify"):
        if shares is not None and shares[key] == Shares.model_fields[key].default:
            del shares[key]
    if shares is not None and "folds" in shares:
        del shares["train"], shares["test"]
    return {**content, "split": shares}


def _at(content: Any, keys: list[str]) -> dict[str, JsonValue] | None:
    for key in keys:
        content = content.get(key) if isinstance(content, dict) else None
    return content if isinstance(content, dict) else None
