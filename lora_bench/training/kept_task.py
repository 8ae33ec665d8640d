"""The task and recipe of kept weights, in a file beside them, so that a copy of their folder can answer new rows."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from lora_bench.errors import LoraBenchError, first_line
from lora_bench.records.kept_adapter import CONFIG
from lora_bench.records.layout import RECORD
from lora_bench.records.record import Record
from lora_bench.records.spec import PlannedSpec
from lora_bench.records.store import RunFolder, read_record
from lora_bench.tasks import Task, task_from_definition
from lora_bench.training.model_card import public_name
from lora_bench.util.regular_files import read_object

FILE = "lora_bench.json"
# Folders of base model and adapter, where both were written to be shared.
BASE, ADAPTER = "base", "adapter"


@dataclass(frozen=True)
class KeptModel:
    """Weights in a folder that can answer new rows, with the spec of their run and its task.

    *threshold* is the probability above which a label is answered, of several labels a text. *beside* is the folder of the base
    model of an adapter, if it was written with it.
    """

    spec: PlannedSpec
    task: Task
    threshold: float | None
    folder: Path
    beside: Path | None = None

    @classmethod
    def of_run(cls, record: Record, folder: Path) -> Self:
        """Return the weights that a run kept in a folder."""
        facts = {"spec": record.spec.model_dump(mode="json"), "threshold": record.threshold}
        return cls.of_facts(facts, f"run {record.run_id}", folder)

    @classmethod
    def of_facts(cls, facts: Mapping[str, Any], source: str, folder: Path, beside: Path | None = None) -> Self:
        """Return the weights beside the content of `FILE`. Raise LoraBenchError, with *source*, if it is no planned run's."""
        try:
            spec = PlannedSpec.model_validate_json(json.dumps(facts.get("spec")))
            task = task_from_definition(spec.task.definition)
            threshold = None if facts.get("threshold") is None else float(facts["threshold"])
        except (TypeError, ValueError) as error:  # pydantic's own is a ValueError
            raise LoraBenchError(f"{source} does not say of which task its weights are: {first_line(error)}") from None
        return cls(spec, task, threshold, folder, beside)

    @property
    def is_adapter(self) -> bool:
        """True if a base model is needed."""
        return (self.folder / CONFIG).is_file()


def write_task(folder: Path, spec: PlannedSpec, threshold: float | None) -> None:
    """Write the task and recipe of weights beside them, without paths of this machine."""
    definition = dict(spec.task.definition)
    data: Any = definition["data"]
    files = [data[part] for part in ("file", "train") if data.get(part) is not None]
    if files:
        definition["data"] = {"file": Path(str(files[0])).name}
    task = spec.task.model_copy(update={"definition": definition})
    model = spec.model.model_copy(update={"name": public_name(spec.model)})
    shown = spec.model_copy(update={"task": task, "model": model, "source": None, "source_sha256": None})
    content = {"spec": shown.model_dump(mode="json"), "threshold": threshold}
    (folder / FILE).write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def kept_model(folder: Path) -> KeptModel | None:
    """Return the weights in a folder, None if it has none. Raise LoraBenchError if nothing says of which task they are."""
    run = folder / RECORD
    if run.is_file() and RunFolder(folder).weights.is_dir():
        return KeptModel.of_run(read_record(run), RunFolder(folder).weights)
    shared = (folder / ADAPTER / CONFIG).is_file()
    weights = folder / ADAPTER if shared else folder
    if not shared and not any((folder / name).is_file() for name in (CONFIG, "config.json")):
        return None
    if (folder / FILE).is_file():
        content = read_object(folder / FILE, str(folder / FILE))
        return KeptModel.of_facts(content, str(folder / FILE), weights, folder / BASE if shared else None)
    if (folder.parent / RECORD).is_file():
        return KeptModel.of_run(read_record(folder.parent / RECORD), folder)
    raise LoraBenchError(
        f"{folder} has no {FILE}, which says of which task its weights are; give the folder of the runs, or write the weights "
        "again with `lora-bench use RUNS --merge` or `--share`"
    )
