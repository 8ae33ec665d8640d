"""The groups of a table: values of a column, each with rows enough for an adapter of its own, or named with what it lacks."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_bench.errors import BadInput, Fault, LoraBenchError, refuse
from lora_bench.suite.from_table import name_of, task_keys
from lora_bench.tasks import Task, TaskData, load_data
from lora_bench.tasks.examples import count_classes, values_of
from lora_bench.tasks.look import TableFacts

FEWEST_GROUPS, MOST_GROUPS = 4, 1_000
# Fewer teach no adapter, and of fewer tests even ten that all go one way would show nothing in a family of hundreds.
LEAST_TRAIN, LEAST_TEST = 20, 10
# A test split as large as a third: what is asked is asked of each group alone.
SHARES = {"train": 0.6, "selection": 0.1, "test": 0.3}


@dataclass(frozen=True)
class TableGroups:
    """The groups of a table.

    Args:
        keys: Keys of the task that has all rows; a row is in the same split whichever groups a task has.
        train: Training rows of each value that gets an adapter.
        left_out: The other values, and why.
        without: Rows without a value.
    """

    column: str
    keys: Mapping[str, Any]
    train: Mapping[str, int]
    left_out: Mapping[str, str]
    without: int

    @property
    def sentences(self) -> Iterator[str]:
        """Describe the groups to a user."""
        yield f"{len(self.train):,} values of {self.column} get an adapter each, with {_span(self.train)} training rows"
        if self.without:
            yield f"{self.without:,} rows have no {self.column} and are left out"
        for value, why in self.left_out.items():
            yield f"left out: {value}, {why}"

    def sample(self, size: int) -> tuple[str, ...]:
        """Return so many values, or all, spread evenly over the numbers of their training rows."""
        ordered = sorted(self.train, key=lambda value: (self.train[value], value))
        taken = min(size, len(ordered))
        return tuple(ordered[(2 * place + 1) * len(ordered) // (2 * taken)] for place in range(taken))


def find_groups(seen: TableFacts, column: str, folder: Path) -> TableGroups:
    """Return the groups of a table by a column, for suites in *folder*.

    Raise LoraBenchError if the table is of another kind than one class a row, or has too few or too many groups; BadInput if
    values are written in two ways.
    """
    if seen.kind != "classification":
        raise LoraBenchError(f"a fleet answers with one class a row, and {seen.file} is for {seen.kind}")
    if column in (seen.label, seen.text[0]):  # a second text may name the group
        raise LoraBenchError(
            f"{column} is the column of the {'label' if column == seen.label else 'text'}: name another"
        )
    keys = task_keys(name_of(seen.file.name), seen, folder, None)
    keys = {**keys, "metric": "accuracy", "labels": [*(seen.labels or sorted(seen.classes))]}
    keys["split"] = {**({} if "column" in seen.split else SHARES), **seen.split}
    task = Task.model_validate(keys)
    rows = values_of(task, folder, column)
    _check(seen.file, column, rows)
    whole = {name: {*split.ids} for name, split in _of(task, column, rows, folder).splits.items()}
    train: dict[str, int] = {}
    left_out: dict[str, str] = {}
    for value in rows:
        try:
            found = _train(_of(task, column, (value,), folder), whole)
        except BadInput as error:
            empty = any("leaves the split" in fault.message for fault in error.faults)
            found = "whose rows leave a split empty" if empty else error.faults[0].message
        if isinstance(found, int):
            train[value] = found
        else:
            left_out[value] = found
    if len(train) < FEWEST_GROUPS:
        shown = "\n".join(f"left out: {value}, {why}" for value, why in [*left_out.items()][:FEWEST_GROUPS])
        few = (
            f"{len(train)} values of {column} in {seen.file} have rows enough, and a fleet has {FEWEST_GROUPS} or more"
        )
        raise LoraBenchError("\n".join(filter(None, (few, shown))))
    return TableGroups(column, keys, train, left_out, max(0, seen.rows + seen.unlabelled - sum(rows.values())))


def _check(file: Path, column: str, rows: Mapping[str, int]) -> None:
    written: dict[str, list[str]] = {}
    for value in rows:
        written.setdefault(" ".join(value.split()).casefold(), []).append(value)
    refuse(
        Fault(
            f"column {column} has {' and '.join(map(repr, values))}: write them alike if they are one", file=str(file)
        )
        for values in written.values()
        if len(values) > 1
    )
    if len(rows) > MOST_GROUPS:
        raise LoraBenchError(
            f"column {column} of {file} has {len(rows):,} values, and a fleet has at most {MOST_GROUPS:,}: name another"
        )


def _of(task: Task, column: str, values: Iterable[str], folder: Path) -> TaskData:
    return load_data(task.model_copy(update={"rows": {column: tuple(values)}}), folder)


def _train(data: TaskData, whole: Mapping[str, set[str]]) -> int | str:
    """Return the training rows of a group, or why it gets no adapter; *whole* has the rows of each split of the whole table."""
    if other := [name for name, split in data.splits.items() if not whole[name].issuperset(split.ids)]:
        return f"which has no row of {' and '.join(other)} in the column of the splits"
    train, test = len(data.splits["train"].ids), len(data.splits["test"].ids)
    if train < LEAST_TRAIN:
        return f"with {train} training rows: fewer than {LEAST_TRAIN}"
    if test < LEAST_TEST:
        return f"with {test} test rows: fewer than {LEAST_TEST}"
    (one, *others) = [name for name, count in count_classes(data.splits["train"], data.labels).items() if count]
    return train if others else f"whose {train} training rows all have the label {one}"


def _span(train: Mapping[str, int]) -> str:
    least, most = min(train.values()), max(train.values())
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"
