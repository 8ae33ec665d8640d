"""What stands before a report of records: the purpose of their suite, its tasks that have not run, or that scores say nothing.

The purpose is in the suite's file beside the records, as a baseline has it.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from lora_bench.documents import read_yaml
from lora_bench.errors import BadInput
from lora_bench.records.record import Record
from lora_bench.records.store import RunFolder
from lora_bench.util.filenames import NAME
from lora_bench.util.regular_files import read_regular

# Ends the name of the suite that trains a model on nearly all rows, behind that of the suite that chose it.
FINAL = "-final"


def about_in(folder: Path, records: Iterable[Record] = ()) -> str:
    """Return the `about` of the suite in a folder, on one line, its tasks that no run on the test split has, and notes of runs.

    A suite of trials alone waits for no such run. Empty without a file. A file that cannot be read says nothing: records are
    reported whatever is beside them.
    """
    records, file = list(records), folder / "suite.yaml"
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
    return " ".join([*said, *_no_measure(folder, {record.run_id for record in records})])


def _no_measure(folder: Path, run_ids: Iterable[str]) -> list[str]:
    """Return that scores measure nothing, where a run has a note in place of its score: a model of nearly all rows."""
    notes = [note for run_id in sorted(run_ids) if (note := RunFolder(folder / run_id).note).is_file()]
    if not notes:
        return []
    said = " ".join(dict.fromkeys(read_regular(note).decode("utf-8") for note in notes))
    suite = folder.name.removesuffix(FINAL)
    warning = "The score below is no measure of this model: it is of the few rows that were kept back."
    return [f"{warning} {said} See `{suite}/report.md`."]


def _task_names(tasks: object) -> list[str]:
    """Return the tasks of a suite that are named; the name of a task in a file stands there."""
    entries = tasks if isinstance(tasks, list) else []
    names = [entry.get("task") if isinstance(entry, dict) else entry for entry in entries]
    return [name for name in names if isinstance(name, str) and re.fullmatch(NAME, name) and not name.endswith(".yaml")]
