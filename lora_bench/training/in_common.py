"""The part of a run spec that must be equal before runs share a pack or a loaded base model.

Every field must be equal unless it is listed as free to differ. A field added to the spec later is on no list: runs that
differ in it share nothing until its author adds it here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from lora_bench.training.job import Job

Fields = Mapping[str, Any]
"""Fields of a spec as pydantic's `exclude` takes them: a name to True, or to the fields inside it."""

MAY_DIFFER: Fields = {
    # The number of labels and the kind of task decide the head: `in_common` adds them.
    "task": {"name": True, "definition": True, "data_sha256": True, "labels": True, "metric": True, "higher_is_better": True},
    "method": {"label": True, "chosen": True},  # `chosen` repeats a part of `options`
    "training": {
        "train_examples": True, "train_tokens": True, "train_flops": True, "caps": True, "steps": True,
        "learning_rate": True, "schedule": True, "warmup": True, "warmup_steps": True, "weight_decay": True,
        "max_grad_norm": True, "distinct_examples": True, "distinct_seed": True, "distinct_draw": True,
    },
    "seed": True, "series": True, "protocol": True, "rules": True, "score_on": True, "selection_every": True,
    "keep_weights": True, "decoding": True, "start": True, "retention": True,
}  # fmt: skip
"""Fields free to differ everywhere: neither the base model nor the shape of a training step depends on them."""


def in_common(job: Job, may_differ: Fields) -> str:
    """Return every field of a run that *may_differ* does not name, as JSON; runs may share if it is equal."""
    spec = job.spec.model_dump(mode="json", exclude=dict(may_differ))
    return json.dumps([spec, job.task.kind, len(job.spec.task.labels), job.cut], sort_keys=True)
