"""The data on which a suite's runs are scored for `retention`, for each of its base models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from lora_bench.errors import BadInput, LoraBenchError
from lora_bench.models.loading import writes_on
from lora_bench.models.registry import BaseModel
from lora_bench.plan.inputs import Progress, with_local_data
from lora_bench.records.spec import Retention
from lora_bench.suite.load_suite import Suite
from lora_bench.suite.schema import RetentionText
from lora_bench.suite.validate_suite import SENTENCES
from lora_bench.tasks import load_data, load_task, pinned
from lora_bench.training.job import RetentionData
from lora_bench.util.paths import task_files

# Paragraphs of a novel in the public domain, one a line; see the README beside it.
TEXT = Path(__file__).parents[1] / "data" / "retention" / "felix_holt.txt"

Retentions = Mapping[str, tuple[Retention, RetentionData]]
"""What runs keep in their specs and where it lies here, by the name of a base model."""


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
