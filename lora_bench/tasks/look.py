"""A look at a table before a task is declared: its form, kind, columns and faults. Each guess is a sentence for the user."""

import contextlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lora_bench.errors import BadInput, Fault, LoraBenchError, refuse, unknown
from lora_bench.kinds import find_kind
from lora_bench.kinds.support.row_values import Table, has_label, normal
from lora_bench.kinds.support.table_view import GuessedTask, LookOptions, View, same_as
from lora_bench.kinds.support.with_classes import WithClasses
from lora_bench.metrics import find, kind_of
from lora_bench.metrics.support.tags import is_tag
from lora_bench.tasks.dealing import as_column_says
from lora_bench.tasks.declaration import Task
from lora_bench.tasks.files import read_file
from lora_bench.tasks.guess_task import guess_task, how_separated
from lora_bench.tasks.row_examples import missing_columns, with_labels
from lora_bench.tasks.source_tables import SEPARATED, Layout, format_of
from lora_bench.tasks.text_facts import contradicting, repeated, spread
from lora_bench.util.regular_files import read_regular

# With a larger share of the largest class, a model that always gives it has a high accuracy. A class with a smaller share, and
# less than half of an equal one, can be missed whole at hardly any cost of accuracy.
LARGEST_SHARE, SMALLEST_SHARE = 0.6, 0.05
# No three splits can be made of fewer rows, and fewer of a class are hardly in the test split.
FEWEST_ROWS, FEW_ROWS = 10, 5
# Name of a column that names rows, where no two have one value.
ID = "id"
_MISSING = re.compile(r"(?i)n/?a|nan|null|none|-+|\?+|unknown|missing|k\.? ?a\.?")


@dataclass(frozen=True, kw_only=True)
class TableFacts(GuessedTask):
    """Facts about a table, for the task to be made of it.

    Args:
        uneven: Rows with too few or too many values.
        rows: Number of the other rows: those that are used.
        classes: Rows of each class or label, the largest first; empty for kinds without classes.
        words: Words of a text: median, 95th percentile and maximum.
        repeated: Rows whose text stands in an earlier row.
        contradicting: Texts that stand in several rows with different labels.
        guessed: Sentences on settings that were guessed.
        metric: Metric of the task; None for the kind's usual one.
        split: Keys of the task's split, such as `by`, with their columns.
        files: Files of the splits that have their own: selection or test.
        test_rows: Number of test rows, if the user names them.
        remarks: Sentences on what is bad about the table, and on its splits.
        id: Column `id`, if its values tell the rows apart.
    """

    file: Path
    layout: Layout
    uneven: int
    unlabelled: int
    rows: int
    classes: dict[str, int]
    words: tuple[int, int, int]
    repeated: int
    contradicting: int
    guessed: tuple[str, ...]
    metric: str | None = None
    empty: int = 0
    split: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)
    test_rows: int | None = None
    remarks: tuple[str, ...] = ()
    id: str | None = None

    @property
    def sentences(self) -> list[str]:
        """Describe the table to a user."""
        label = f"; label: {self.label or ', '.join(self.columns)}" if (self.label,) != self.text else ""
        said = [f"{self.file}: {self.rows:,} rows; text: {' and '.join(self.text)}{label}"]
        if self.classes:
            shown = ", ".join(f"{name} {number:,}" for name, number in list(self.classes.items())[:6])
            more = ", …" if len(self.classes) > 6 else ""
            share = max(self.classes.values()) / sum(self.classes.values())
            if self.kind == "multilabel":
                each = sum(self.classes.values()) / self.rows
                said.append(f"{len(self.classes)} labels ({shown}{more}); a row has {each:.1f} on average")
            else:
                of = "words" if self.kind == "tokens" else "rows"
                said.append(f"{len(self.classes)} classes ({shown}{more}); the largest has {share:.0%} of the {of}")
        middle, most, longest = self.words
        said.append(f"half of the texts have up to {middle} words, 95 % up to {most}; the longest has {longest:,}")
        if self.repeated:
            said.append(f"{self.repeated:,} rows repeat the text of another; equal texts always go to the same split")
        if self.contradicting:
            said.append(
                f"{self.contradicting:,} texts have another label in another row, which no model can tell apart"
            )
        for count, such in (
            (self.uneven, "have too few or too many values and are left out"),
            (self.unlabelled, "have no label and are left out"),
            (self.empty, "have an empty text and are kept"),
        ):
            if count:
                said.append(f"{count:,} rows {such}")
        if self.id is not None:
            said.append(f"reports name rows by the column {self.id}")
        return [*said, *self.guessed, *self.remarks]


def look(file: Path, asked: LookOptions | None = None) -> TableFacts:
    """Look at a table; what the user does not say is guessed.

    Raise BadInput if the file cannot be read; LoraBenchError if it has no such column, none that could be the text or the
    label, or too few rows or classes.
    """
    asked = asked or LookOptions()
    if asked.kind is not None:
        find_kind(asked.kind)  # refuses an unknown name
    guessed: list[str] = []
    layout, names = _layout(file, guessed)
    _check_columns(file, names, asked)
    table, _ = read_file(file, replace(layout, wanted=frozenset(names)))
    if not table.places:
        raise LoraBenchError(f"{file} has no rows")
    dealt = not (asked.test and asked.valid)
    try:
        found = guess_task(View(table, asked, guessed))
    except LoraBenchError:
        _check_rows(file, len(table.places), "row", dealt * FEWEST_ROWS)
        raise
    if asked.kind is None:
        why = f", as {found.why}" if found.why else ""
        guessed.append(f"guessed: the kind is {found.kind}{why}; --kind names another")
    split = {
        key: column
        for key, column in (("column", asked.split), ("by", asked.group), ("in_order", asked.time))
        if column is not None
    }
    task = _task(file, found, split)
    for _, wrong in task.kind_of.faults_of_text(task):
        raise LoraBenchError(f"{file} as {found.kind}: the text {wrong}; name columns with --text and --text-pair")
    gaps = found.kind == "multilabel" and found.label and None not in table.columns[found.label]
    labelled = table if gaps else with_labels(task, table)  # an empty list or text is a row with none of the labels
    if not labelled.places:
        shown = found.label or ", ".join(found.columns)
        raise LoraBenchError(f"{file} has no rows with a label in column {shown!r}")
    faults: list[Fault] = []
    texts = task.kind_of.texts(task, labelled, faults)
    labels = task.kind_of.labels(task, labelled, texts, faults)
    kind = task.kind_of
    classes = dict(Counter(kind.each(labels)).most_common()) if isinstance(kind, WithClasses) else {}
    texts_read = [normal(text) for text in texts]
    _check_classes(file, found, classes, len(labels))
    _check_rows(file, len(labels), "row with a label", dealt * FEWEST_ROWS)
    _check_rows(file, len(set(texts_read)), "different text", dealt * 2)
    files = {name: path for name, path in (("selection", asked.valid), ("test", asked.test)) if path is not None}
    others = _with_files(task, files, layout)
    unseen = _only_there(task, others, classes)
    metric = _metric(found.kind, asked.metric, classes, guessed)
    one_label = found.kind in ("classification", "regression")
    named = found.labels or _order(metric, [*classes, *unseen], found.kind, said=bool(unseen))
    return TableFacts(
        **{**vars(found), "labels": named},
        file=file,
        layout=layout,
        uneven=table.left_out,
        unlabelled=len(table.places) - len(labels),
        rows=len(labels),
        classes=classes,
        words=spread(_words(text, label, writes=kind.writes) for text, label in zip(texts, labels, strict=True)),
        repeated=repeated(texts_read),
        contradicting=contradicting(texts_read, labels) if one_label else 0,
        guessed=tuple(guessed),
        metric=metric,
        empty=sum(not any(part.strip() for part in text) for text in texts) if one_label else 0,
        split=split,
        files=files,
        test_rows=_test_rows(task, table, others),
        remarks=(
            *_remarks(found, labelled, classes, asked),
            *(f"no row of {file} has the class {name}, so no model can learn it" for name in unseen),
        ),
        id=_id_column(task, [labelled, *others.values()]),
    )


def _layout(file: Path, guessed: list[str]) -> tuple[Layout, tuple[str, ...]]:
    format = format_of(file.name)
    if format == "jsonl" and file.suffix == ".json" and file.is_file() and read_regular(file).lstrip()[:1] == b"[":
        guessed.append("guessed: the file is one JSON list")
        format = "json"
    layout = Layout(format=format)
    if format in SEPARATED:
        delimiter, encoding = how_separated(file, format, guessed)
        layout = replace(layout, uneven_rows="leave_out", delimiter=delimiter, encoding=encoding)
    try:
        return layout, read_file(file, layout)[0].names
    except BadInput:
        with contextlib.suppress(BadInput):
            if format in SEPARATED:
                plain = replace(layout, quoting=False)
                names = read_file(file, plain)[0].names
                guessed.append("guessed: quotation marks belong to the text, as they do not enclose values")
                return plain, names
        raise


def _check_columns(file: Path, names: Sequence[str], asked: LookOptions) -> None:
    whole = asked.label is None or asked.label in names or "," not in asked.label
    labels = [asked.label] if whole else [part.strip() for part in str(asked.label).split(",")]
    for column in (asked.text, asked.text_pair, *labels, asked.split, asked.group, asked.time, asked.by):
        if column is not None and column not in names:
            raise unknown(f"column of {file}", column, names)
    if len(labels) > 1 and asked.kind is not None and ("label", "columns") not in find_kind(asked.kind).own_keys:
        several = f"--label {asked.label} names {len(labels)} columns, and the kind {asked.kind} has one label column"
        raise LoraBenchError(f"{several}: name one, or leave out --kind")


def _task(file: Path, found: GuessedTask, split: Mapping[str, str]) -> Task:
    """Return the task of the guess, which reads texts and labels as a suite will."""
    label = {"column": found.label, "separator": found.separator, "columns": found.columns, "start": found.start}
    return Task.model_validate(
        {
            "task": "table", "data": str(file), "kind": found.kind, "text": found.text, "unlabelled_rows": "leave_out",
            "label": {key: value for key, value in label.items() if value}, "unanswerable": found.unanswerable,
            "labels": found.labels or None, "split": dict(split) or None,
        }
    )  # fmt: skip


def _words(text: Sequence[str], label: Any, *, writes: bool) -> int:
    """Return the words that a model reads of a row: also of its text to write."""
    return sum(len(part.split()) for part in (*text, *(label if writes else ())))


def _check_rows(file: Path, count: int, what: str, least: int) -> None:
    if count < least:
        such = what if count == 1 else what.replace("row", "rows").replace("text", "texts")
        raise LoraBenchError(
            f"{file} has {count} {such}, too few to train, choose and test on: some hundred are a beginning"
        )


def _check_classes(file: Path, found: GuessedTask, classes: Mapping[str, int], rows: int) -> None:
    if len(classes) == 1:
        raise LoraBenchError(
            f"column {found.label!r} of {file} has one class, {next(iter(classes))!r}, in all {rows:,} rows; at least 2 are "
            "needed: name another column with --label"
        )


def _metric(kind: str, asked: str | None, classes: Mapping[str, int], guessed: list[str]) -> str:
    """Return the metric: the one that is asked for, or one that fits the classes."""
    if asked is not None:
        scores = kind_of(asked)
        if scores is not None and scores not in find_kind(kind).metric_kinds:
            raise LoraBenchError(f"--metric {asked} is for {scores}, and the kind of the table is {kind}")
        return asked
    metric, why = find_kind(kind).usual_metric, ""
    rows = max(1, sum(classes.values()))
    largest, smallest = (of(classes.values(), default=0) / rows for of in (max, min))
    if kind == "classification" and largest > LARGEST_SHARE:
        metric, why = "macro_f1", f", as the largest class has {largest:.0%} of the rows"
    elif kind == "classification" and smallest < min(SMALLEST_SHARE, 0.5 / max(1, len(classes))):
        metric, why = "macro_f1", f", as the smallest class has {smallest:.1%} of the rows"
    if kind == "tokens" and not all(map(is_tag, classes)):
        metric, why = "token_accuracy", ", as the tags are not those of entities, such as B-PER"
    guessed.append(f"guessed: the metric is {metric}{why}; --metric names another")
    return metric


def _order(metric: str, classes: Sequence[str], kind: str, *, said: bool) -> tuple[str, ...]:
    """Return the classes, if they must be *said* or the metric is of the second of them: the rarer one of two."""
    facts = find(metric)
    return tuple(classes) if said or (kind == "classification" and facts is not None and facts.takes_classes) else ()


def _with_files(task: Task, files: Mapping[str, Path], layout: Layout) -> dict[str, Table]:
    tables = {}
    for split, path in files.items():
        table, _ = read_file(path, replace(layout, wanted=task.wanted | {ID}))
        refuse(missing_columns(table, task.wanted))
        tables[split] = with_labels(task, table)
    return tables


def _id_column(task: Task, tables: Sequence[Table]) -> str | None:
    """Return the column of ids, if each table has it with a value of its own for each row."""
    if ID in task.wanted or not all(ID in table.columns for table in tables):
        return None
    columns = [table.columns[ID] for table in tables]
    whole = all(value is not None and value != "" for column in columns for value in column)
    return ID if whole and all(len(set(map(str, column))) == len(column) for column in columns) else None


def _only_there(task: Task, others: Mapping[str, Table], classes: Mapping[str, int]) -> list[str]:
    """Return the classes that only the files of other splits have, where the table gives the names of the classes."""
    kind = task.kind_of
    if not isinstance(kind, WithClasses) or task.label.columns or task.labels is not None:
        return []
    labels = [kind.labels(task, table, kind.texts(task, table, []), []) for table in others.values()]
    return list(dict.fromkeys(name for each in labels for name in kind.each(each) if name not in classes))


def _test_rows(task: Task, table: Table, others: Mapping[str, Table]) -> int | None:
    if "test" in others:
        return len(others["test"].places)
    splits = as_column_says(task, {"all": table})
    return len(splits["test"].places) if "test" in splits else None


def _remarks(found: GuessedTask, table: Table, classes: Mapping[str, int], asked: LookOptions) -> Iterator[str]:
    """Yield a sentence on each thing that makes scores of the table worth less than they seem, and on where rows go."""
    few = {name: count for name, count in classes.items() if count < FEW_ROWS}
    if few:
        shown = ", ".join(f"{name} {count}" for name, count in list(few.items())[:6]) + (", …" if len(few) > 6 else "")
        yield f"a class of fewer than {FEW_ROWS} rows will hardly be scored: {shown}"
    for name, values in table.columns.items():
        if table.own and name and name in map(str, values[:2000]):
            yield f"{name!r} is the name of a column and a value in it: if the file has no header, add one"
    written: dict[str, list[str]] = {}
    for name in classes:
        written.setdefault(" ".join(name.split()).casefold(), []).append(name)
    for names in written.values():
        if len(names) > 1:
            yield f"{' and '.join(names)} are different classes here; write them alike if they are one"
    for name, count in classes.items():
        if _MISSING.fullmatch(name) is not None and found.kind != "tokens":
            yield f"{name} is a class of {count:,} rows; if it stands for no label, empty these cells"
    for column in set(found.text) & set(same_as(table, found.label)):
        yield f"{column} gives {found.label} away, so scores say nothing: name another with --text"
    if asked.group is not None:
        groups = len({str(value) for value in table.columns[asked.group] if has_label(value)})
        yield f"rows with the same {asked.group} stay in one split ({groups:,} groups)"
    if asked.time is not None:
        yield f"the last rows by {asked.time} are test, those before them selection"
    if asked.split is not None:
        yield f"{asked.split} says which rows are train, selection and test; a split that it lacks is taken from train"
    for path, such in ((asked.valid, "selection"), (asked.test, "test")):
        if path is not None:
            yield f"the rows of {path} are {such}"
