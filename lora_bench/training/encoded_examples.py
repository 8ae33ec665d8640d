"""The examples of a run as its model takes them, with what its record says of them: how many, and how many were cut."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial

from lora_bench.models.registry import BaseModel
from lora_bench.records.record import DataSummary
from lora_bench.tasks import TaskData, majority_score, unavailable_metrics
from lora_bench.training.attempt import Facts
from lora_bench.training.job import Job
from lora_bench.training.process_cache import WARM
from lora_bench.training.scoring import Example, Exercise, scored_splits


def examples_of(
    job: Job, data: TaskData, at_hand: Exercise, facts: Facts
) -> tuple[Sequence[Example], dict[str, list[Example]]]:
    """The examples to learn from, and by split those to be answered; notes the facts about them."""
    spec = job.spec
    asked = dict.fromkeys(scored_splits(spec, data))
    if spec.selection_every is not None:
        asked[spec.rules.choose_on] = None
    truncated: dict[str, float] = {}
    train, truncated["train"] = WARM.lessons(job, lambda: at_hand.lessons(data.splits["train"]))
    questions: dict[str, list[Example]] = {}
    for name in asked:
        asked_of = partial(at_hand.questions, data.splits[name])
        questions[name], truncated[name] = WARM.encoded(job, f"{name} to be answered", asked_of)
    facts.warnings += [*data.warnings, *unavailable_metrics(job.task)]
    for name, share in sorted(truncated.items()):
        if share > 0:
            facts.warnings.append(
                f"{_share(share)} of the {name} inputs are longer than {spec.training.max_length} tokens and were cut"
            )
    facts.warnings += _label_order_warning(job.base_model, data.labels)
    facts.data = DataSummary(
        examples={name: len(split.labels) for name, split in data.splits.items()},
        truncated_share=truncated,
        majority_score=majority_score(job.task, data, spec.score_on),
    )
    return train, questions


def _share(share: float) -> str:
    """A share above 0 in per cent, which never reads as none."""
    return f"{share:.1%}" if share >= 0.001 else "less than 0.1%"


def _label_order_warning(base_model: BaseModel, labels: Sequence[str]) -> list[str]:
    """A warning where the checkpoint knows the same labels in another order."""
    config = json.loads((base_model.folder / "config.json").read_text(encoding="utf-8"))
    known = [
        str(name).lower() for _, name in sorted((config.get("id2label") or {}).items(), key=lambda item: int(item[0]))
    ]
    ours = [label.lower() for label in labels]
    if known != ours and sorted(known) == sorted(ours):
        return [
            f"the checkpoint of {base_model.name} orders the labels {known}, the task {ours}; "
            "the head is new, so its order is the task's"
        ]
    return []
