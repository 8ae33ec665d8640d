"""Tasks by name and from YAML, with every fault of their keys that their types do not show, alone and together."""

import math
import re
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path

from lora_bench.documents import Document, Key, read_yaml, validate
from lora_bench.errors import BadInput, LoraBenchError, did_you_mean, first_line, refuse, unknown
from lora_bench.kinds import known_kinds
from lora_bench.metrics import kind_of, known_metrics, unpinned
from lora_bench.tasks.declaration import Task, with_part
from lora_bench.tasks.folders import as_laid_out
from lora_bench.tasks.source_tables import FORMATS, SEPARATED, format_of
from lora_bench.tasks.sources import Data, Part
from lora_bench.util.filenames import NAME
from lora_bench.util.paths import task_files
from lora_bench.util.pip_assets import known_assets
from lora_bench.util.regular_files import read_regular

TAKEN = ("train", "selection", "test", "all")
_NO_OWN_TEST = "must go: the data has no test split of its own, and `test` is its share"
# No template in use has a tenth of it.
MOST_TEMPLATE_BYTES = 2**20


def load_task(name: str) -> Task:
    """Return a named task, with paths from its file's folder. Raise LoraBenchError for no such name, BadInput for faults."""
    files = task_files()
    if name not in files:
        raise unknown("task", name, files)
    document = read_yaml(files[name])
    task = task_from_document(document, base=files[name].parent)
    if task.task != name:
        raise BadInput([document.fault(("task",), f"must be {name!r} like the file, got {task.task!r}")])
    return task


def task_from_document(document: Document, key: Key = (), *, base: Path = Path()) -> Task:
    """Return the task at *key* of a YAML file, whose paths start from *base*. Raise BadInput with every fault."""
    task = validate(Task, document, key)
    faults = [document.fault((*key, *at), message) for at, message in contradictions(task)]
    refuse(faults)
    try:
        return _with_template(task, base)
    except (OSError, RuntimeError, ValueError) as error:  # no such file, no such user in `~user`, no path at all
        why = (isinstance(error, OSError) and error.strerror) or first_line(error)
        message = f"must be a template with {{{{ … }}}} or its file, and {task.chat_template} cannot be read: {why}"
        raise BadInput([document.fault((*key, "chat_template"), message)]) from None


def _with_template(task: Task, base: Path) -> Task:
    """Return the task with the text of its template's file, so that a record has all of it."""
    given = task.chat_template
    if given is None or "{" in given:
        return task
    raw = read_regular(base / Path(given).expanduser(), MOST_TEMPLATE_BYTES)
    text = raw.decode("utf-8")
    if "{" not in text:
        raise ValueError("it has no {{ … }}")  # the text of any other file has no place in a record
    return task.model_copy(update={"chat_template": text})


def contradictions(task: Task) -> Iterator[tuple[Key, str]]:
    """Return every fault of a task whose keys have the right types."""
    found = dict.fromkeys(_faults(task))
    yield from found
    if task.local is not None:
        known = {message for _, message in found}
        for key, message in _faults(as_laid_out(task)):
            if message not in known:
                inside = key if key[0] in task.local.model_fields_set else key[1:] if key[0] == "data" else ()
                yield ("local", *inside), message


def _faults(task: Task) -> Iterator[tuple[Key, str]]:
    yield from _faults_of_data(task.data)
    yield from _faults_of_metrics(task)
    yield from _faults_of_labels(task)
    yield from _faults_of_split(task)
    yield from _faults_of_keys(task)
    yield from task.kind_of.faults_of_text(task)
    yield from _faults_of_subsets(task)
    yield from _faults_of_format(task)


def _faults_of_data(data: Data) -> Iterator[tuple[Key, str]]:
    given = data.model_fields_set
    ways = {
        "file": {"file"},
        "train": {"train", "selection", "test", "also"},
        "hub": {"hub", "name", "revision", "splits"},
    }
    used = [way for way, keys in ways.items() if given & keys]
    if given == {"asset"}:
        yield ("data",), "must say which `file` of the asset"
    elif len(used) != 1 or (used == ["hub"] and "asset" in given):
        yield (
            ("data",),
            "must be a file, files for train and test, an asset with either in it, or a hub data set"
            + (f"; got {', '.join(sorted(given))}" if given else ""),
        )
    elif used == ["train"]:
        for split in ("train", "test"):
            if getattr(data, split) is None and not (split == "test" and data.has_selection):
                yield ("data",), f"{split} is missing; to split one file, write `data: FILE`"
    elif used == ["hub"]:
        for key in ("hub", "revision", "splits"):
            if getattr(data, key) is None:
                yield ("data", key), "is missing, and a hub data set needs it"
    if data.asset is not None and data.asset not in known_assets():
        yield ("data", "asset"), str(unknown("asset", data.asset, known_assets()))
    yield from _faults_of_further(data.also, ("data", "also"))
    if data.splits is not None:
        yield from _faults_of_further(data.splits.also, ("data", "splits", "also"))


def _faults_of_further(also: dict[str, str] | dict[str, str | Part], key: Key) -> Iterator[tuple[Key, str]]:
    for name in also:
        if name in TAKEN:
            yield (*key, name), f"must go: {name!r} is the name of another split"
        elif not re.fullmatch(NAME, name):
            yield (*key, name), f"must be a name of letters, digits, '.', '_' and '-', got {name!r}"


def _faults_of_metrics(task: Task) -> Iterator[tuple[Key, str]]:
    named: list[tuple[Key, str]] = [(("metric",), task.metric)]
    named += [(("metrics", index), name) for index, name in enumerate(task.metrics)]
    for key, name in named:
        try:
            kind = kind_of(name)
        except LoraBenchError as error:
            yield key, str(error)
            continue
        if kind is not None and kind not in task.kind_of.metric_kinds:
            fitting = ", ".join(name for name, kind in known_metrics().items() if kind in task.kind_of.metric_kinds)
            yield key, f"{name!r} is for {kind}, and the task's kind is {task.kind} ({fitting})"
        if (reason := unpinned(name)) is not None:
            yield key, f"{name!r} {reason}"
    for index, name in enumerate(task.metrics):
        if name in task.all_metrics[: index + 1]:
            yield ("metrics", index), f"names {name!r} a second time"


def _faults_of_keys(task: Task) -> Iterator[tuple[Key, str]]:
    """Return a fault for each key that only another kind of task may have."""
    for kind in known_kinds().values():
        for key, wrong in kind.own_keys.items():
            if key not in task.kind_of.own_keys and attrgetter(".".join(map(str, key)))(task):
                yield key, wrong.format(kind=task.kind)


def _faults_of_labels(task: Task) -> Iterator[tuple[Key, str]]:
    if not task.kind_of.has_classes:
        with_classes = ", ".join(name for name, kind in known_kinds().items() if kind.has_classes)
        for name in ("labels", "label_names"):
            if getattr(task, name):
                yield (name,), f"is only for {with_classes}; the kind is {task.kind}"
    yield from task.kind_of.faults_of_labels(task)


def _faults_of_split(task: Task) -> Iterator[tuple[Key, str]]:
    if task.split is None:
        return
    given = task.split.model_fields_set
    if task.split.before is not None and task.split.by is None:
        yield ("split", "before"), "needs `by`, the column in whose values it stands"
    if task.split.phrases and (task.split.by is not None or len(task.text) > 1):
        yield ("split", "phrases"), "is of rows with one text, in place of `by`"
    if task.split.stratify and task.split.in_order is not None:
        yield ("split", "stratify"), "must go: `in_order` deals rows out by their order"
    if task.split.column is not None and task.data.has_splits:
        yield ("split", "column"), "must go: the data has its splits in files"
    if task.split.folds is not None:
        yield from _faults_of_folds(task, task.split.folds)
    elif task.data.has_all_splits:
        yield ("split",), "must go: the data already comes in three splits"
    elif task.data.has_splits:
        has, taken = (
            ("selection", "`test` is") if task.data.has_selection else ("test", "`selection` and `more_test` are")
        )
        for share in sorted(given & {"train", has}):
            yield ("split", share), f"must go: the data has a {has} split; {taken} taken from train"
        if task.split.selection + task.split.more_test >= 1:
            yield ("split",), "must leave rows to train on: selection and more_test add up to 1 or more"
        if task.split.more_test and task.data.has_selection:
            yield ("split", "more_test"), _NO_OWN_TEST
        elif task.split.more_test and task.subsets is not None:
            yield ("split", "more_test"), "must go: the subsets of the test split are of its own rows"
    elif task.split.more_test:
        yield ("split", "more_test"), _NO_OWN_TEST
    elif not math.isclose(task.split.train + task.split.selection + task.split.test, 1):
        shares = f"{task.split.train:g} + {task.split.selection:g} + {task.split.test:g}"
        yield ("split",), f"must add up to 1, got {shares} (train + selection + test)"


def _faults_of_folds(task: Task, folds: int) -> Iterator[tuple[Key, str]]:
    assert task.split is not None
    if task.data.has_splits:
        yield ("split", "folds"), "must go: the data has its splits in files"
    for key in ("train", "test", "more_test", "column"):
        if key in task.split.model_fields_set:
            yield ("split", key), "must go: `folds` say which rows are test, and the others are train and selection"
    if task.split.in_order is not None:
        yield ("split", "in_order"), "cannot go with `folds`, which would train on later rows than they test"
    if task.split.selection + 1 / folds >= 1:
        yield ("split",), "must leave rows to train on: selection and one fold add up to all of them"


def _faults_of_subsets(task: Task) -> Iterator[tuple[Key, str]]:
    if task.subsets is None:
        return
    names = [*task.subsets.parts, *([task.subsets.rest] if task.subsets.rest is not None else [])]
    for name in dict.fromkeys(names):
        if names.count(name) > 1 or name in TAKEN or name in task.data.further:
            yield ("subsets",), f"must have names of their own, and {name!r} is taken"
    first: dict[str, str] = {}
    for name, values in task.subsets.parts.items():
        for value in values:
            if first.setdefault(value, name) != name:
                yield ("subsets", "parts", name), f"has the value {value!r}, which {first[value]!r} has too"


def _faults_of_format(task: Task) -> Iterator[tuple[Key, str]]:
    files = task.data.named_files
    if task.format is None and task.data.hub is None:
        for file in files.values():
            if file is not None and format_of(file) is None:
                known = ", ".join(FORMATS[1:])
                yield (
                    ("data",),
                    f"{file!r} has no suffix that tells its format; say `format: {FORMATS[0]}`, {known}",
                )
    formats = {task.format} if task.format else {format_of(file) for file in files.values() if file is not None}
    if task.data.hub is not None or formats - {*SEPARATED, None}:
        for key in ("columns", "quoting", "delimiter", "encoding", "uneven_rows"):
            if key in task.model_fields_set and not (key == "columns" and formats == {"conll"}):
                yield (key,), "is only for csv and tsv"
    if task.delimiter is not None and (len(task.delimiter) != 1 or task.delimiter in '"\r\n'):
        yield ("delimiter",), f"must be one character that separates values, got {task.delimiter!r}"
    if task.columns is not None:
        for name in sorted(task.wanted - set(task.columns)):
            yield ("columns",), f"does not name {name!r}, which the task uses{did_you_mean(name, task.columns)}"
    for part, own in task.data.also.items():
        if isinstance(own, Part) and own.columns is not None:
            for name in sorted(with_part(task, own).wanted - set(own.columns)):
                hint = did_you_mean(name, own.columns)
                yield ("data", "also", part, "columns"), f"does not name {name!r}, which the task uses{hint}"
