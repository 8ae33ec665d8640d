"""What a suite is run on: the data of its tasks, and its base models, from wherever they lie."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lora_bench.errors import BadInput, Fault, LoraBenchError
from lora_bench.models.registry import BaseModel, find_model
from lora_bench.suite.consent import allowing, require_permission
from lora_bench.suite.load_suite import Suite
from lora_bench.tasks import Task, TaskData, find_folder, in_folder, load_data, pinned

Progress = Callable[[str], None]


@dataclass(frozen=True)
class LoadedTask:
    """A task with its data.

    Args:
        task: With its data at a commit, or in a local folder.
        base: The folder that its paths are seen from.
        data: Its examples.
    """

    task: Task
    base: Path
    data: TaskData


def obtain(suite: Suite, data_dir: Path | None, progress: Progress | None) -> tuple[list[LoadedTask], list[BaseModel]]:
    """The data and the base models of a suite.

    Args:
        suite: Whose.
        data_dir: Folder that holds data sets in the layout in which they circulate, for every task that has one.
        progress: Told what takes a while.

    Raises:
        BadInput: With every fault in them at once; or first, if a model would run code that the user has not allowed.
    """
    require_permission(suite, kind="model")
    faults: list[Fault] = []
    tasks: list[LoadedTask] = []
    models: list[BaseModel] = []
    for index, (task, base) in enumerate(suite.tasks):
        try:
            task, base = _with_local_data(suite, task, base, data_dir)
            task = allowing(pinned(task), suite.code)
            data = load_data(task, base, progress, whole_train=not suite.rules.selection_from_train)
            tasks.append(LoadedTask(task, base, data))
        except BadInput as error:
            faults += error.faults
        except LoraBenchError as error:
            faults.append(suite.document.fault(("tasks", index), str(error)))
    for index, entry in enumerate(suite.models):
        try:
            found = find_model(
                entry.model,
                base=suite.base,
                revision=entry.revision,
                shown=entry.shown,
                progress=progress,
                trust_remote_code=entry.trust_remote_code,
                allow_pickle=entry.model in suite.pickles,
            )
            models.append(found)
        except LoraBenchError as error:
            faults.append(suite.document.fault(("models", index), str(error)))
    if faults:
        raise BadInput(faults)
    return tasks, models


def _with_local_data(suite: Suite, task: Task, base: Path, data_dir: Path | None) -> tuple[Task, Path]:
    """The task with its data in the local folder that the suite or the user names for it, and where its paths are seen."""
    named = suite.content.data.get(task.task)
    if named is not None:
        try:
            folder = suite.base / Path(named).expanduser()
        except RuntimeError as error:  # the home of a user that does not exist
            raise LoraBenchError(f"data of task {task.task}: {named!r} is no folder: {error}") from None
        return in_folder(task, folder), folder
    if data_dir is not None and task.local is not None:
        folder = find_folder(task, data_dir)
        return in_folder(task, folder), folder
    return task, base
