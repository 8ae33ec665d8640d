"""Obtain the inputs of a suite: the data of its tasks, its base models, and the data of `retention`."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lora_bench.errors import BadInput, Fault, LoraBenchError, refuse
from lora_bench.models.find_family import with_family
from lora_bench.models.loading import writes_on
from lora_bench.models.made_folder import Progress as Progress
from lora_bench.models.registry import BaseModel, find_model
from lora_bench.models.shapes import shape_of_hub
from lora_bench.records.spec import Retention
from lora_bench.suite.consent import allowing, require_permission
from lora_bench.suite.load_suite import Suite
from lora_bench.suite.schema import ModelEntry, RetentionText
from lora_bench.suite.validate_suite import SENTENCES
from lora_bench.tasks import Task, TaskData, find_folder, in_folder, load_data, load_task, pinned, released_data
from lora_bench.training.job import RetentionData
from lora_bench.util.hub import HubUnreachable, asked_once, cache_only
from lora_bench.util.paths import PACKAGE, task_files

# Paragraphs of a novel in the public domain, one a line; see the README beside it.
TEXT = PACKAGE / "data" / "retention" / "felix_holt.txt"

Retentions = Mapping[str, tuple[Retention, RetentionData]]
"""What runs keep in their specs and where it lies here, by the name of a base model."""


@dataclass(frozen=True)
class LoadedTask:
    """A task with its data, which is pinned to a commit or in a local folder; its other paths are relative to *base*."""

    task: Task
    base: Path
    data: TaskData


def obtain(
    suite: Suite, data_dir: Path | None, progress: Progress | None, *, download: bool = True
) -> tuple[list[LoadedTask], list[BaseModel]]:
    """Return the data and the base models of a suite.

    *data_dir* has published data sets in their usual layout, used for every task that has one. Without *download*, known shapes
    and released counts stand in for models and data that are not on this machine. Raise BadInput with every fault at once; or
    earlier, if a model would run code that the user has not allowed.
    """
    require_permission(suite, kind="model")
    with asked_once():
        return _obtained(suite, data_dir, progress, download)


def _obtained(
    suite: Suite, data_dir: Path | None, progress: Progress | None, download: bool
) -> tuple[list[LoadedTask], list[BaseModel]]:
    faults: list[Fault] = []
    tasks: list[LoadedTask] = []
    models: list[BaseModel] = []
    for index, (task, base) in enumerate(suite.tasks):
        try:
            whole_train = not suite.rules.selection_from_train
            task, base = with_local_data(suite, task, base, data_dir)
            task = allowing(task, suite.code)
            released = None if download or task.data.hub is None else released_data(task, whole_train=whole_train)
            tasks.append(_loaded(task, base, progress, whole_train, released))
        except BadInput as error:
            faults += error.faults
        except LoraBenchError as error:
            way = "; --data-dir FOLDER reads a copy of it" if isinstance(error, HubUnreachable) and task.local else ""
            said = "" if str(error).startswith("task ") else f"task {task.task}: "
            # A task may be one of many that a key `by` makes of one entry.
            key = ("tasks", index) if len(suite.tasks) == len(suite.content.tasks) else ("tasks",)
            faults.append(suite.document.fault(key, f"{said}{error}{way}"))
    for index, entry in enumerate(suite.models):
        try:
            shape = None if download else shape_of_hub(entry.model)
            models.append(_found(suite, entry, progress, shape))
        except LoraBenchError as error:
            a_table = isinstance(error, HubUnreachable) and suite.command[:1] == ("reproduce",)
            way = "; --model FOLDER runs a copy of it" if a_table else ""
            faults.append(suite.document.fault(("models", index), f"{error}{way}"))
    refuse(faults)
    return tasks, models


def _loaded(
    task: Task, base: Path, progress: Progress | None, whole_train: bool, released: TaskData | None
) -> LoadedTask:
    """Return a task with its data; if *released* is given, with that unless the data is in the cache."""
    if released is not None:
        try:
            with cache_only():
                return _loaded(task, base, None, whole_train, None)
        except LoraBenchError:
            return LoadedTask(task, base, released)
    task = pinned(task)
    return LoadedTask(task, base, load_data(task, base, progress, whole_train=whole_train))


def _found(suite: Suite, entry: ModelEntry, progress: Progress | None, shape: str | None) -> BaseModel:
    """Return a base model; if *shape* is given, only that unless the model is in the cache."""
    if shape is not None:
        try:
            with cache_only():
                return _found(suite, entry, None, None)
        except LoraBenchError:
            found = find_model(shape, base=suite.base, shown=entry.shown or entry.model)
            return replace(found, name=entry.model)
    return model_of_entry(entry, suite.base, suite.pickles, progress)


def model_of_entry(entry: ModelEntry, base: Path, pickles: Collection[str], progress: Progress | None) -> BaseModel:
    """Return the base model of an entry of a suite in the folder *base*; *pickles* names those that may be pickled."""
    found = find_model(
        entry.model,
        base=base,
        revision=entry.revision,
        shown=entry.shown,
        progress=progress,
        trust_remote_code=entry.trust_remote_code,
        allow_pickle=entry.model in pickles,
    )
    return with_family(found, entry.family, progress)


def with_local_data(suite: Suite, task: Task, base: Path, data_dir: Path | None) -> tuple[Task, Path]:
    """Return the task with its data in the local folder that the suite or the user gives, and the folder of its paths."""
    named = suite.content.data.get(task.task)
    if named is not None:
        try:
            folder = suite.base / Path(named).expanduser()
        except RuntimeError as error:  # the home folder of an unknown user
            raise LoraBenchError(f"data of task {task.task}: {named!r} is not a folder: {error}") from None
        return in_folder(task, folder), folder
    if data_dir is not None and task.local is not None:
        folder = find_folder(task, data_dir)
        return in_folder(task, folder), folder
    return task, base


def retention_data(
    suite: Suite, models: Sequence[BaseModel], data_dir: Path | None, progress: Progress | None
) -> Retentions:
    """Return the data for `retention` by base model; none if it is not asked for. Raise BadInput if it cannot be had."""
    asked = suite.content.retention
    if not asked:
        return {}
    try:
        made = {
            writes: _text(suite, asked) if writes else _sentences(suite, data_dir, progress)
            for writes in {writes_on(model.model_type) for model in models}
        }
    except LoraBenchError as error:
        raise BadInput([suite.document.fault(("retention",), str(error))]) from None
    return {model.name: made[writes_on(model.model_type)] for model in models}


def _text(suite: Suite, asked: bool | RetentionText) -> tuple[Retention, RetentionData]:
    data = RetentionData(text=suite.base / Path(asked.text).expanduser() if isinstance(asked, RetentionText) else TEXT)
    _, sha256 = data.paragraphs()
    return Retention(measure="loss", data_sha256=sha256), data


def _sentences(suite: Suite, data_dir: Path | None, progress: Progress | None) -> tuple[Retention, RetentionData]:
    task, base = load_task(SENTENCES), task_files()[SENTENCES].parent
    try:
        task, base = with_local_data(suite, task, base, data_dir)
        task = pinned(task)
        data = load_data(task, base, progress, whole_train=True)
    except LoraBenchError as error:
        raise LoraBenchError(
            f"encoders are scored on STS-B, which may not be shipped: {error}; name a folder of it by `data: "
            f"{{{SENTENCES}: FOLDER}}` or --data-dir FOLDER"
        ) from None
    return Retention(measure="spearman", data_sha256=data.sha256), RetentionData(sentences=(task, base))
