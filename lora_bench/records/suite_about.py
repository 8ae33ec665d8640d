"""The purpose of a suite whose file is beside its records, as a baseline has it, and its tasks that have not run."""

import re
from collections.abc import Iterable
from pathlib import Path

from lora_bench.documents import read_yaml
from lora_bench.errors import BadInput
from lora_bench.records.record import Record
from lora_bench.util.filenames import NAME


def about_in(folder: Path, records: Iterable[Record] = ()) -> str:
    """Return the `about` of the suite in a folder, on one line, and its tasks that no run on the test split has.

    A suite of trials alone waits for no such run. Empty without a file. A file that cannot be read says nothing: records are
    reported whatever is beside them.
    """
    file = folder / "suite.yaml"
    try:
        suite = read_yaml(file).data if file.is_file() else {}
    except BadInput:
        suite = {}
    about, specs = suite.get("about"), [record.spec for record in records]
    begun = {spec.task.name for spec in specs}
    done = {spec.task.name for spec in specs if spec.score_on == "test"} or begun
    said = [" ".join(about.split())] if isinstance(about, str) else []
    left = [name for name in _task_names(suite.get("tasks")) if name not in done]
    for how, names in {
        "Planned and not run": [name for name in left if name not in begun],
        "Trials only, so far": [name for name in left if name in begun],
    }.items():
        if done and names:
            said.append(f"{how}: {', '.join(f'`{name}`' for name in names)}.")
    return " ".join(said)


def _task_names(tasks: object) -> list[str]:
    """Return the tasks of a suite that are named; the name of a task in a file stands there."""
    entries = tasks if isinstance(tasks, list) else []
    names = [entry.get("task") if isinstance(entry, dict) else entry for entry in entries]
    return [name for name in names if isinstance(name, str) and re.fullmatch(NAME, name) and not name.endswith(".yaml")]
