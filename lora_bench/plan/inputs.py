"""Obtain the inputs of a suite: the data of its tasks, and its base models."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from lora_bench.errors import BadInput, Fault, LoraBenchError
from lora_bench.models.find_family import with_family
from lora_bench.models.made_folder import Progress as Progress
from lora_bench.models.registry import BaseModel, find_model
from lora_bench.models.shapes import shape_of_hub
from lora_bench.suite.consent import allowing, require_permission
from lora_bench.suite.load_suite import Suite
from lora_bench.suite.schema import ModelEntry
from lora_bench.tasks import Task, TaskData, find_folder, in_folder, load_data, pinned, released_data
from lora_bench.util.hub import HubUnreachable, asked_once, cache_only


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
    and released counts stand in for models and data that are not on this machine.

    Raises:
        BadInput: With every fault at once; or earlier, if a model would run code that the user has not allowed.
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
            faults.append(suite.document.fault(("tasks", index), f"{said}{error}{way}"))
    for index, entry in enumerate(suite.models):
        try:
            shape = None if download else shape_of_hub(entry.model)
            models.append(_found(suite, entry, progress, shape))
        except LoraBenchError as error:
            a_table = isinstance(error, HubUnreachable) and suite.command[:1] == ("reproduce",)
            way = "; --model FOLDER runs a copy of it" if a_table else ""
            faults.append(suite.document.fault(("models", index), f"{error}{way}"))
    if faults:
        raise BadInput(faults)
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
