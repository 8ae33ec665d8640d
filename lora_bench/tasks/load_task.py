"""Tasks by name and from YAML, checked as a whole."""

from __future__ import annotations

from lora_bench.documents import Document, Key, read_yaml, validate
from lora_bench.errors import BadInput, unknown
from lora_bench.tasks.declaration import Task
from lora_bench.tasks.validate_task import contradictions
from lora_bench.util.paths import task_files


def load_task(name: str) -> Task:
    """Return the task of a name; paths in it are relative to the folder of its file.

    Raises:
        LoraBenchError: If no task has this name, with the nearest one.
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
    """Return the task at *key* of a YAML file; the whole file by default.

    Raises:
        BadInput: With every fault.
    """
    task = validate(Task, document, key)
    faults = [document.fault((*key, *at), message) for at, message in contradictions(task)]
    if faults:
        raise BadInput(faults)
    return task
