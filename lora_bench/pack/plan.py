"""Which runs are packed with which: those of one base model, kind of task and method, in packs as large as a device can use."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from lora_bench.job import Job
from lora_bench.spec import PlannedSpec

FAMILIES = ("roberta", "deberta-v2", "gpt2")
"""Model types for which packed runs are tested against isolated ones."""

SIZES: dict[str, tuple[str, ...]] = {
    "lora": ("rank", "scaling"),
    "bottleneck_adapter": ("bottleneck_size",),
    "prefix_tuning": (),
    "bitfit": (),
}
"""The methods for which they are, and the options in which members of a pack may differ."""

TOKENS_ON_CUDA = 16_384
"""Tokens of a step beyond which a data-centre GPU gains nothing by more members (arithmetic, at half of its peak)."""

TOKENS_ON_CPU = 2_048
"""The same for a core of a CPU: what a layer's products take is then far more than what calling them does."""


def packs(jobs: Sequence[Job], workers: int, *, on_cuda: bool) -> list[list[Job]]:
    """Units of work, in the order of their first jobs.

    Args:
        jobs: What is to be done, the longest first.
        workers: How many units are done at once: packs are no larger than leaves all of them something to do.
        on_cuda: Whether they train on a GPU.
    """
    tokens = TOKENS_ON_CUDA if on_cuda else TOKENS_ON_CPU
    alike: dict[str, list[Job]] = {}
    for job in jobs:
        alike.setdefault(company_of(job) or job.run_id, []).append(job)
    units: list[list[Job]] = []
    for group in alike.values():
        recipe = group[0].spec.training
        at_most = max(1, tokens // (recipe.batch_size * recipe.max_length))
        each = min(at_most, -(-len(group) // max(1, workers)))
        # Members that are done together leave nobody alone.
        group.sort(key=lambda job: -(job.steps or 0))
        units += [group[start : start + each] for start in range(0, len(group), each)]
    place = {job.run_id: index for index, job in enumerate(jobs)}
    return sorted(units, key=lambda unit: min(place[job.run_id] for job in unit))


def company_of(job: Job) -> str | None:
    """What runs of one pack have in common, or None for a run that is done by itself."""
    spec = job.spec
    if not _packs(job.base_model.model_type, spec):
        return None
    method, recipe = spec.method, spec.training
    differing = SIZES[method.name]
    common: dict[str, Any] = {
        "model": [spec.model.sha256, spec.model.name],
        "kind": [job.task.kind, len(spec.task.labels)],
        "method": [method.name, {name: value for name, value in method.options.items() if name not in differing}],
        "recipe": [
            recipe.batch_size, recipe.max_length, recipe.precision, recipe.threads, recipe.arguments,
            recipe.label_smoothing, recipe.base_dropout, recipe.head_dropout, recipe.masks,
        ],
    }  # fmt: skip
    return json.dumps(common, sort_keys=True)


def _packs(model_type: str, spec: PlannedSpec) -> bool:
    method, recipe = spec.method, spec.training
    if method.name not in SIZES or model_type not in FAMILIES:
        return False
    # DoRA divides by lengths of rows, which padded ranks leave alone but nobody has tested; the others change the base.
    plain = not method.options.get("use_dora") and method.options.get("initialisation", "kaiming") in (
        "kaiming", "gaussian", "identity", "paper",
    )  # fmt: skip
    # Time that is shared says nothing of the time of one.
    clocked = recipe.uses("train_seconds")
    drops = recipe.base_dropout != 0 or recipe.head_dropout != 0 or method.options.get("dropout", 0) != 0
    return plain and not clocked and recipe.accumulation == 1 and (recipe.masks == "keyed" or not drops)
