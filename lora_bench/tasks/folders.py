"""Tasks whose data lies in a user's folder, in the layout in which the set is distributed.

`find_folder` finds that folder below a data directory. `in_folder` returns the task with its data there, as a plain task. Its
files are named relative to the folder, so that equal files give equal data wherever they lie.
"""

from collections.abc import Iterator
from pathlib import Path

from lora_bench.errors import LoraBenchError
from lora_bench.tasks.declaration import Task
from lora_bench.tasks.sources import Data, Files, Local, Part

SHOWN_ENTRIES = 8


def find_folder(task: Task, data_dir: Path) -> Path:
    """Return the folder of a task's files below a data directory, or the directory itself if it holds them.

    Names are matched exactly first, then without case. The first folder that has every file wins. Raise LoraBenchError if there
    is none, with what was looked for and what is there.
    """
    local = _local(task)
    if not data_dir.is_dir():
        raise LoraBenchError(
            f"task {task.task}: there is no data directory {data_dir}; name one with {' or '.join(local.folders)} in it"
            + (", or leave --data-dir out to take the data from the hub" if task.data.hub is not None else "")
        )
    candidates = [folder for name in local.folders for folder in _folders_named(data_dir, Path(name).parts)]
    for folder in [*candidates, data_dir]:
        if not _missing(local, folder):
            return folder
    if candidates:
        raise LoraBenchError(_what_is_missing(task, candidates[0]))
    raise LoraBenchError(
        f"task {task.task}: {data_dir} has no folder {' or '.join(local.folders)}, and not itself "
        f"{', '.join(' or '.join(names) for names in _missing(local, data_dir))} ({_entries(data_dir)})"
    )


def in_folder(task: Task, folder: Path) -> Task:
    """Return the task with its data in *folder*, named relative to it. Raise LoraBenchError if a file is missing."""
    local = _local(task)
    if _missing(local, folder):
        raise LoraBenchError(_what_is_missing(task, folder))

    def found(names: Files | None) -> str | None:
        return _first_there(folder, names) if names is not None else None

    also = {}
    for name, part in local.also.items():
        there = _first_there(folder, _names(part))
        if there is not None:
            also[name] = part.model_copy(update={"file": there}) if isinstance(part, Part) else there
    return _with_data(
        task, local, Data(train=found(local.train), selection=found(local.selection), test=found(local.test), also=also)
    )


def as_laid_out(task: Task) -> Task:
    """Return the task as in any folder of its layout: with the first name of each file, and nothing looked up."""
    local = _local(task)
    selection = local.selection[0] if local.selection is not None else None
    return _with_data(task, local, Data(train=local.train[0], selection=selection, test=local.test[0], also=local.also))


def unlabelled_file(task: Task, folder: Path, name: str) -> Part:
    """Return the file of a split with secret labels. Raise LoraBenchError if layout or folder lacks it."""
    local = _local(task)
    if name not in local.unlabelled:
        known = ", ".join(local.unlabelled) or "none"
        raise LoraBenchError(f"task {task.task} has no unlabelled split {name!r} (known: {known})")
    part = local.unlabelled[name]
    there = _first_there(folder, _names(part))
    if there is None:
        raise LoraBenchError(f"task {task.task}: {folder} has no {_names(part)[0]} ({_entries(folder)})")
    columns = as_laid_out(task).columns if isinstance(part, str) else part.columns
    own = Part(file=there, columns=columns) if isinstance(part, str) else part.model_copy(update={"file": there})
    return own


def _with_data(task: Task, local: Local, data: Data) -> Task:
    keys = ("format", "columns", "quoting", "uneven_rows", "text", "label", "label_names", "id")
    said = {key: getattr(local, key) for key in keys if getattr(local, key) is not None}
    # Rows of a published set that have no text are part of it, and a user could not mend them.
    changed = {**said, "data": data, "local": None, "empty_texts": "keep"}
    return task.model_copy(update=changed)


def _local(task: Task) -> Local:
    if task.local is None:
        raise LoraBenchError(
            f"task {task.task} does not say how its files lie in a folder; give it a `local`, or name the files in `data`"
        )
    return task.local


def _names(part: str | Part) -> Files:
    return (part if isinstance(part, str) else part.file,)


def _first_there(folder: Path, names: Files) -> str | None:
    """Return the first name that the folder has, plain or gzipped, as the plain name: both are read alike.

    A name that begins with `../` belongs to a set beside this one in the data directory, as GLUE's diagnostic set is beside
    MNLI. Raise LoraBenchError if it leads out of the folder: a download must not make other files readable.
    """
    for name in names:
        within = folder.resolve().parent if name.startswith("../") else folder.resolve()
        for path in (folder / name, folder / f"{name}.gz"):
            if path.is_file() or (path == folder / name and path.exists()):
                if not path.resolve().is_relative_to(within):
                    raise LoraBenchError(
                        f"{path} leads out of {within}, by its name or as a link; put the file itself there"
                    )
                return name
    return None


def _missing(local: Local, folder: Path) -> list[Files]:
    wanted = [local.train, *([local.selection] if local.selection is not None else []), local.test]
    wanted += [_names(part) for part in local.also.values() if isinstance(part, str) or not part.optional]
    return [names for names in wanted if _first_there(folder, names) is None]


def _folders_named(folder: Path, parts: tuple[str, ...]) -> Iterator[Path]:
    """Return the folders below *folder* with these names, exact ones first."""
    if not parts:
        yield folder
        return
    inside = sorted(entry for entry in folder.iterdir() if entry.name.casefold() == parts[0].casefold())
    for entry in sorted(inside, key=lambda entry: entry.name != parts[0]):
        if entry.is_dir():
            yield from _folders_named(entry, parts[1:])


def _what_is_missing(task: Task, folder: Path) -> str:
    missing = ", ".join(" or ".join(names) for names in _missing(_local(task), folder))
    return f"task {task.task}: {folder} has no {missing} ({_entries(folder)})"


def _entries(folder: Path) -> str:
    try:
        names = sorted(entry.name for entry in folder.iterdir())
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    if not names:
        return "it is empty"
    return f"it has {', '.join(names[:SHOWN_ENTRIES])}{', …' if len(names) > SHOWN_ENTRIES else ''}"
