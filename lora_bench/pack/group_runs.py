"""Which runs are packed with which: those of one base model, kind of task and method, in packs as large as a device can use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from lora_bench.families import FAMILIES
from lora_bench.records.spec import PlannedSpec
from lora_bench.training.in_common import MAY_DIFFER, in_common
from lora_bench.training.job import Job

SIZES: dict[str, tuple[str, ...]] = {
    "lora": ("rank", "scaling"),
    "bottleneck_adapter": ("bottleneck_size",),
    "prefix_tuning": (),
    "bitfit": (),
}
"""Methods whose packed runs are tested against isolated ones, and the options in which members of a pack may differ."""

ARGUMENTS = frozenset(
    {"adam_beta1", "adam_beta2", "adam_epsilon", "lr_scheduler_kwargs", "optim", "gradient_accumulation_steps"}
)
"""Of transformers' arguments those that a pack follows; with any other a run is done by the Trainer's own loop."""

OPTIMISERS = ("adamw_torch", "adamw_torch_fused")
"""The optimisers that it has, which are one."""

FLOPS_ON_CUDA = 6e12
"""FLOPs of a step beyond which a data-centre GPU gains nothing by more members: some 16,000 tokens of a RoBERTa-base."""

FLOPS_ON_CPU = 1e9
"""The same for a core of a CPU: products of matrices then take far more than what calls them."""

LARGEST = 64
"""Members of a pack at most: a worker that dies sends all of them back to their last checkpoints."""


def most_members(flops: float, memory_bytes: int, *, free_bytes: int | None) -> int:
    """How many runs a pack has at most.

    Args:
        flops: Of a step of one run.
        memory_bytes: That one run needs by itself.
        free_bytes: Memory for the pack, on a CPU; None on a GPU, where the products fill the device before its memory is full,
            and a pack that did run out of it is done one by one.
    """
    by_work = (FLOPS_ON_CUDA if free_bytes is None else FLOPS_ON_CPU) / max(flops, 1.0)
    by_memory = LARGEST if free_bytes is None else free_bytes / max(memory_bytes, 1)
    return max(1, int(min(by_work, by_memory, LARGEST)))


def packs(jobs: Sequence[Job], workers: int, most: Callable[[Job], int]) -> list[list[Job]]:
    """Units of work, in the order of their first jobs: for each worker one of each company, however many jobs that has.

    As many of a unit begin as a pack may have, and each of the others takes the place of one that leaves: a pack is full until
    nobody of its unit is left to begin.

    Args:
        jobs: What is to be done, the longest first.
        workers: How many units are done at once: a pack is no larger than leaves all of them something to do.
        most: Members of a pack of such jobs at most.
    """
    alike: dict[str, list[Job]] = {}
    for job in jobs:
        alike.setdefault(company_of(job) or job.run_id, []).append(job)
    units: list[list[Job]] = []
    for group in alike.values():
        each = min(min(map(most, group)), -(-len(group) // max(1, workers)))
        # Members that are done together leave nobody alone, and a task's data is read once for those that follow each other.
        group.sort(key=lambda job: (-(job.steps or 0), job.spec.task.data_sha256))
        group = [replace(job, at_once=each) for job in group]
        parts = [group[start : start + each] for start in range(0, len(group), each)]
        # Dealt out, so that every worker has as many of the long ones as any other.
        count = min(len(parts), max(1, workers)) if each > 1 else len(parts)
        units += [[job for part in parts[first::count] for job in part] for first in range(count)]
    place = {job.run_id: index for index, job in enumerate(jobs)}
    return sorted(units, key=lambda unit: min(place[job.run_id] for job in unit))


def company_of(job: Job) -> str | None:
    """Return what runs must have in common to share a pack, or None for a run that is done by itself."""
    spec = job.spec
    if not _packs(job.base_model.model_type, spec):
        return None
    method = {**MAY_DIFFER["method"], "options": dict.fromkeys(SIZES[spec.method.name], True)}
    # A prefix that another run trained is no longer made by a network.
    return in_common(job, {**MAY_DIFFER, "method": method}) + str(spec.start is not None)


def _packs(model_type: str, spec: PlannedSpec) -> bool:
    method, recipe = spec.method, spec.training
    if method.name not in SIZES or not any(model_type in family.packed_types for family in FAMILIES):
        return False
    # DoRA divides by lengths of rows, which padded ranks leave alone but nobody has tested; the others change the base.
    plain = not method.options.get("use_dora") and method.options.get("initialisation", "kaiming") in (
        "kaiming", "gaussian", "identity", "paper",
    )  # fmt: skip
    # Time that is shared says nothing of the time of one.
    clocked = recipe.uses("train_seconds")
    drops = recipe.base_dropout != 0 or recipe.head_dropout != 0 or method.options.get("dropout", 0) != 0
    alone = recipe.accumulation == 1 and recipe.processes == 1
    usual = ARGUMENTS.issuperset(recipe.arguments) and recipe.arguments.get("optim", OPTIMISERS[0]) in OPTIMISERS
    return plain and not clocked and alone and usual and (recipe.masks == "keyed" or not drops)
