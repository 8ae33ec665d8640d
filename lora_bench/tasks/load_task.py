"""Tasks by name and from YAML, checked as a whole."""

from __future__ import annotations

from pathlib import Path

from lora_bench.documents import Document, Key, read_yaml, validate
from lora_bench.errors import BadInput, first_line, unknown
from lora_bench.tasks.declaration import Task
from lora_bench.tasks.validate_task import contradictions
from lora_bench.util.paths import task_files
from lora_bench.util.regular_files import read_regular


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
    task = task_from_document(document, base=files[name].parent)
    if task.task != name:
        raise BadInput([document.fault(("task",), f"must be {name!r} like the file, got {task.task!r}")])
    return task


def task_from_document(document: Document, key: Key = (), *, base: Path = Path()) -> Task:
    """Return the task at *key* of a YAML file, by default the whole file; its paths start from *base*.

    Raises:
        BadInput: With every fault.
    """
    task = validate(Task, document, key)
    faults = [document.fault((*key, *at), message) for at, message in contradictions(task)]
    if faults:
        raise BadInput(faults)
    try:
        return _with_template(task, base)
    except (OSError, RuntimeError, ValueError) as error:  # no such file, no such user in `~user`, no path at all
        why = (isinstance(error, OSError) and error.strerror) or first_line(error)
        message = f"must be a template with {{{{ … }}}} or its file, and {task.chat_template} cannot be read: {why}"
        raise BadInput([document.fault((*key, "chat_template"), message)]) from None


# No template in use has a tenth of it.
MOST_TEMPLATE_BYTES = 2**20


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
