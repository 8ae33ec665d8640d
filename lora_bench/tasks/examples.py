"""Examples of a task in splits, made from the rows of its tables.

`load_data` makes three splits (`train` to learn from, `selection` to choose by, `test` to report) and lists every fault of the
data at once. If the data has fewer splits, `dealing` deals rows out by a hash of their text, or of a column such as their
document. A row always goes to the same split, whatever the order of the file, and rows that belong together stay together.

For generation and chat a label is the texts that may be written for an input: one of them in `train`, all of them in scored
splits, where an input in several rows is one example.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, reduce
from operator import add
from pathlib import Path

from lora_bench.errors import Fault, collecting, refuse
from lora_bench.kinds.support.row_values import SHOWN_VALUES, Examples, Split, Table, has_label, normal
from lora_bench.metrics import find
from lora_bench.metrics.support.tags import is_tag
from lora_bench.tasks.dealing import SPLITS, as_column_says, deal
from lora_bench.tasks.declaration import Task, with_part
from lora_bench.tasks.files import read_bytes, read_file
from lora_bench.tasks.folders import as_laid_out, unlabelled_file
from lora_bench.tasks.row_examples import examples_of, ids_of, missing_columns, wanted_of, with_labels
from lora_bench.tasks.source_tables import Layout, format_of, hub_commit, read_hub
from lora_bench.tasks.sources import Data
from lora_bench.tasks.text_facts import shared_texts
from lora_bench.util.hashing import content_hash
from lora_bench.util.pip_assets import find_asset, members
from lora_bench.util.regular_files import sha256_of

Progress = Callable[[str], None]


@dataclass(frozen=True)
class TaskData:
    """The examples of a task.

    Args:
        splits: Splits by name: train, selection (unless train is whole), test, and the task's further splits.
        labels: Class names in the order of their indexes; empty for regression and generation.
        sha256: Hash of the content that they were made from.
        folds: Number of independent examples of each split by fold; empty without folds, and where one was asked for.
    """

    splits: dict[str, Split]
    labels: tuple[str, ...]
    sha256: str
    warnings: tuple[str, ...]
    folds: tuple[dict[str, int], ...] = ()

    @property
    def counted_only(self) -> bool:
        """Return True if it has the numbers of examples and not the examples."""
        return not self.splits["train"].texts


def load_data(
    task: Task, base: Path, progress: Progress | None = None, *, whole_train: bool = False, fold: int | None = None
) -> TaskData:
    """Load the examples of a task.

    Args:
        task: The declaration.
        base: The folder that its paths start from.
        progress: Function called with each progress message.
        whole_train: Set no selection split aside if the data has none.
        fold: Fold to test. By default all folds are checked, and the first is returned with the warnings of all.

    Raise BadInput with every fault of the data; AssetUnavailable if the data is an asset that is neither cached nor available;
    LoraBenchError if the hub does not have the data or cannot be reached.
    """
    found, sha256 = _tables(task, base, progress)
    tables = as_column_says(task, {part: with_labels(task.of_part(part), table) for part, table in found.items()})
    faults: list[Fault] = []
    parts = {part: examples_of(task.of_part(part), table, faults, part) for part, table in tables.items()}
    refuse(faults)
    kind, part = task.kind_of, "all" if "all" in parts else "train"
    known = parts[part]
    if task.split is not None and task.split.column is not None:  # one table, whose classes are those of all its rows
        known = reduce(add, (parts[name] for name in SPLITS if name in parts))
    labels = kind.class_names(task, tables[part], known, faults)
    for name, examples in parts.items():
        faults += kind.faults_of_classes(task.of_part(name), tables[name], examples, labels)
    if not faults:
        faults += _no_entities(task, labels, next(iter(tables.values())))
    refuse(faults)
    every = (None,) if task.folds is None else range(task.folds) if fold is None else (fold,)
    dealings = [deal(task, parts, tables, whole_train=whole_train, fold=one) for one in every]
    faults += dict.fromkeys(fault for dealt in dealings for fault in _faults_of_splits(task, dealt, tables, parts))
    metric = find(task.metric)
    if task.folds is not None and metric is not None and metric.takes_classes:
        dealt_by_fold = zip(every, dealings, strict=True)
        faults += (tables[part].fault(said) for fold, dealt in dealt_by_fold for said in _lacking(fold, dealt, labels))
    refuse(faults)
    of_folds = [
        {
            name: _split(task, kind.dealt(examples, name), labels, scored=name != "train")
            for name, examples in dealt.items()
        }
        for dealt in dealings
    ]
    warnings = dict.fromkeys(said for splits in of_folds for said in _warnings(task, splits, labels, tables))
    sizes = [{name: split.independent for name, split in splits.items()} for splits in of_folds]
    return TaskData(of_folds[0], labels, sha256, tuple(warnings), tuple(sizes) if len(sizes) > 1 else ())


def values_of(task: Task, base: Path, column: str) -> dict[str, int]:
    """Return how many training rows have each value of a column, in the file's order. Raise BadInput if it is missing."""
    tables, _ = _tables(task.model_copy(update={"rows": {**task.rows, column: ()}}), base, None)
    table = tables["all" if "all" in tables else "train"]
    refuse(missing_columns(table, frozenset({column})))
    return dict(Counter(str(value) for value in table.columns[column] if has_label(value)))


def released_data(task: Task, *, whole_train: bool = False) -> TaskData | None:
    """Return a task's data as its release counts it, without texts and labels; None if the counts are not known."""
    if task.release is None or (task.kind_of.has_classes and task.labels is None):
        return None
    counts = dict(task.release.examples)
    if "selection" not in counts and not whole_train and task.shares is not None:
        counts["selection"], joins = (
            round(share * counts["train"]) for share in (task.shares.selection, task.shares.more_test)
        )
        counts["train"] -= counts["selection"] + joins
        counts["test"] += joins
    data = task.data
    sha256 = hub_sha256(data, data.revision) if data.hub is not None and data.revision is not None else ""
    splits = {name: Split([""] * count, [], []) for name, count in counts.items()}
    return TaskData(splits, task.labels or (), sha256, ())


def pinned(task: Task) -> Task:
    """Return the task with the commit of its hub revision. Raise LoraBenchError if neither the hub nor the cache knows it."""
    if task.data.hub is None or task.data.revision is None:
        return task
    commit = hub_commit(task.data.hub, task.data.revision)
    return task.model_copy(update={"data": task.data.model_copy(update={"revision": commit})})


def load_unlabelled(task: Task, folder: Path, name: str) -> Split:
    """Load inputs with secret labels, such as GLUE's test files. Raise LoraBenchError without them, BadInput with faults."""
    part = unlabelled_file(task, folder, name)
    mine = with_part(as_laid_out(task), part)
    wanted = frozenset({*mine.text, *([mine.id] if mine.id is not None else [])})
    table, _ = read_file(folder / part.file, replace(_layout(mine), wanted=wanted))
    faults: list[Fault] = list(missing_columns(table, wanted))
    refuse(faults)
    texts, ids = task.kind_of.texts(mine, table, faults), ids_of(mine, table, faults)
    refuse(faults)
    return Split(ids, texts, [])


def _layout(task: Task) -> Layout:
    return Layout(task.format, task.columns, task.quoting, task.wanted, task.uneven_rows, task.delimiter, task.encoding)


def _tables(task: Task, base: Path, progress: Progress | None) -> tuple[dict[str, Table], str]:
    """Return the tables by split ("all" for one that is to be split), and the hash of their content."""
    data = task.data
    layout = _layout(task)
    if data.asset is not None:
        asset, files = find_asset(data.asset), data.named_files
        found = members(asset.name, list(files.values()), progress)
        read = {}
        for part, file in files.items():
            layout = replace(layout, format=task.format or format_of(file), wanted=wanted_of(task, part))
            read[part] = read_bytes(found[file], f"{asset.name}: {file.rpartition('/')[2]}", layout, own=False)
        return read, content_hash({"asset": asset.sha256, **({"file": data.file} if data.file is not None else files)})
    if data.hub is not None and data.splits is not None and data.revision is not None:
        if progress is not None:
            progress(f"looking for {data.hub} on the Hugging Face hub")
        commit = hub_commit(data.hub, data.revision)
        tables = {
            split: read_hub(data.hub, data.name, name, commit, wanted_of(task, split))
            for split, name in data.splits.named.items()
        }
        return tables, hub_sha256(data, commit)
    tables, hashes = {}, {}
    faults: list[Fault] = []
    for part, file in data.files.items():
        layout = replace(_layout(task.of_part(part)), wanted=wanted_of(task.of_part(part), part))
        with collecting(faults):
            path = base / Path(file).expanduser()
            tables[part], hashes[part] = (
                _read_once(path, layout, sha256_of(path)) if task.rows and path.is_file() else read_file(path, layout)
            )
    refuse(faults)
    return tables, content_hash(hashes)


@lru_cache(maxsize=2)
def _read_once(path: Path, layout: Layout, sha256: str) -> tuple[Table, str]:
    """Read a file of which many tasks use some rows each, once for all of them; *sha256* tells a file that was changed."""
    return read_file(path, layout)


def hub_sha256(data: Data, commit: str) -> str:
    """Return the hash that names data of the hub at a commit."""
    names = data.splits.named if data.splits is not None else {}
    return content_hash({"hub": data.hub, "name": data.name, "commit": commit, "splits": names})


def _no_entities(task: Task, labels: Sequence[str], table: Table) -> Iterator[Fault]:
    """Return a fault if a metric of the task counts entities, and the labels are no tags of entities."""
    counting = [name for name in task.all_metrics if (found := find(name)) is not None and found.entities]
    others = [label for label in labels if not is_tag(label)]
    if counting and others:
        shown = ", ".join(map(repr, others[:SHOWN_VALUES])) + (", …" if len(others) > SHOWN_VALUES else "")
        yield table.fault(
            f"has labels in column {task.label.column!r} that are no tags of entities such as B-PER, I-PER and O, which "
            f"{counting[0]} counts: {shown}; say `metric: token_accuracy`, or rename them with `label_names`"
        )


def count_classes(split: Split, labels: Sequence[str]) -> dict[str, int]:
    """Return how often each class is a label: of an example, one of several, or of a word where each word has one."""
    if not labels:
        return {}
    counts = Counter(one if isinstance(one, str) else labels[int(one)] for one in split.each_label)
    return {label: counts[label] for label in labels}


def _faults_of_splits(
    task: Task, dealt: Mapping[str, Examples], tables: Mapping[str, Table], parts: Mapping[str, Examples]
) -> Iterator[Fault]:
    for split, examples in dealt.items():
        part = split if split in parts else "all" if "all" in parts else "train"
        if not examples.ids:
            count = len(parts[part].ids)
            yield tables[part].fault(f"leaves the split {split} without any example ({count:,} rows with a label)")
        yield from (tables[part].fault(message) for message in task.kind_of.faults_of_split(examples.labels, split))


def _lacking(fold: int | None, dealt: Mapping[str, Examples], labels: Sequence[str]) -> Iterator[str]:
    """Return a fault for each scored split of a fold without rows of a class, of which a metric by class says nothing."""
    for split in ("selection", "test"):
        lacking = set(labels) - set(dealt[split].labels) if split in dealt else ()
        if lacking:
            shown = ", ".join(repr(label) for label in labels if label in lacking)
            yield (
                f"leaves the split {split} of fold {fold} without the label {shown}, whose score the metric needs: take "
                "fewer `folds`, or none"
            )


def _split(task: Task, examples: Examples, labels: tuple[str, ...], *, scored: bool) -> Split:
    names = [*task.subsets.parts, task.subsets.rest] if task.subsets is not None else []
    places = {name: [place for place, subset in enumerate(examples.subsets) if subset == name] for name in names}
    subsets = {name: tuple(found) for name, found in places.items() if name is not None and found}
    numbers: dict[str, int] = {}
    groups = [numbers.setdefault(group, len(numbers)) for group in examples.groups]
    return Split(
        examples.ids,
        examples.texts,
        task.kind_of.numbered(examples.labels, labels),
        subsets,
        groups if scored and len(numbers) < len(groups) else [],
    )


def _warnings(
    task: Task, splits: Mapping[str, Split], labels: tuple[str, ...], tables: Mapping[str, Table]
) -> Iterator[str]:
    texts = {name: [normal(text) for text in split.texts] for name, split in splits.items()}
    for (scored, known), shared in shared_texts(texts).items():
        if shared:
            count = len(splits[scored].texts)
            verb = "shares its text" if shared == 1 else "share their text"
            yield f"{shared:,} of the {count:,} examples of {scored} {verb} with an example of {known}"
    counts = {name: count_classes(split, labels) for name, split in splits.items()}
    unseen = [label for label in labels if counts["train"][label] == 0]
    if unseen:
        yield f"no training example has the label {', '.join(map(repr, unseen))}"
    yield from task.kind_of.warnings_of_classes(labels)
    single = [label for label in labels if sum(of_split[label] for of_split in counts.values()) == 1]
    if single:
        yield f"only one example in all splits has the label {', '.join(map(repr, single))}"
    for part, table in tables.items():
        empty = sum(not str(value).strip() for name in task.of_part(part).text for value in table.columns[name])
        if empty:
            yield f"{table.shown} has empty texts ({empty:,}), which are kept"
        for count, such in ((table.left_out, "with too few or too many values"), (table.unlabelled, "without a label")):
            if count:
                one = count == 1
                yield f"{table.shown} has {count:,} {'row' if one else 'rows'} {such}, which {'is' if one else 'are'} left out"
