"""Compare the order of a task's labels with that of a base model's checkpoint."""

import json
from collections.abc import Sequence

from lora_bench.models.registry import BaseModel
from lora_bench.models.safety import read_config


def label_order_warnings(base_model: BaseModel, labels: Sequence[str]) -> list[str]:
    """Return a warning if the checkpoint orders the same labels differently, with the key that keeps its order."""
    config = read_config(base_model.name, base_model.folder)
    known = [
        str(name).lower() for _, name in sorted((config.get("id2label") or {}).items(), key=lambda item: int(item[0]))
    ]
    ours = [label.lower() for label in labels]
    if known == ours or sorted(known) != sorted(ours):
        return []
    in_its_order = json.dumps(sorted(labels, key=lambda label: known.index(label.lower())), ensure_ascii=False)
    return [
        f"the checkpoint of {base_model.name} orders the labels {known}, the task {ours}; the head is new, so the task's order "
        f"is used; to keep the checkpoint's, say `labels: {in_its_order}` in the task"
    ]
