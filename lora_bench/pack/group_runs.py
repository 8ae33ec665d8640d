"""Group runs into packs: those of one base model, kind of task and method, in packs as large as a device can use."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from lora_bench.families import FAMILIES
from lora_bench.methods import known_methods, packed_options
from lora_bench.records.spec import PlannedSpec
from lora_bench.training.job import MAY_DIFFER, Job, in_common

ARGUMENTS = frozenset(
    {"adam_beta1", "adam_beta2", "adam_epsilon", "lr_scheduler_kwargs", "optim", "gradient_accumulation_steps"}
)
"""Arguments of transformers that a pack supports; a run with any other is done by the Trainer's own loop."""

OPTIMISERS = ("adamw_torch", "adamw_torch_fused")
"""Names of the optimisers that a pack supports, which are one optimiser."""

FLOPS_ON_CUDA = 6e12
"""FLOPs of a step beyond which more members speed up no data-centre GPU: some 16,000 tokens of a RoBERTa-base."""

FLOPS_ON_CPU = 1e9
"""The same for a core of a CPU: matrix products then take far longer than their calls."""

LARGEST = 64
"""Greatest number of members of a pack: if a worker dies, all of them return to their last checkpoints."""


def most_members(
    flops: float, memory_bytes: int, *, free_bytes: int | None, on_gpu: bool = False, shared_bytes: int = 0
) -> int:
    """Return the greatest number of runs in a pack. One that exhausts the memory all the same is tried at half.

    A run alone has a step of so many FLOPs, and needs *memory_bytes*, of which a pack needs *shared_bytes* once: its frozen
    base. *free_bytes* is None if unknown, as of the GPUs of a cluster.
    """
    by_work = (FLOPS_ON_CUDA if on_gpu else FLOPS_ON_CPU) / max(flops, 1.0)
    own = max(memory_bytes - shared_bytes, 1)
    by_memory = LARGEST if free_bytes is None else (free_bytes - shared_bytes) / own
    return max(1, int(min(by_work, by_memory, LARGEST)))


def packs(jobs: Sequence[Job], workers: int, most: Callable[[Job], int]) -> list[list[Job]]:
    """Return units of work, in the order of their first jobs: for each worker one of each kind, however many jobs it has.

    A unit starts as many runs as fit a pack. When one finishes, the next takes its slot, so a pack stays full until its unit
    has no run left to start. The longest jobs come first, and *most* gives the greatest number of members of a pack of such
    jobs.
    """
    alike: dict[str, list[Job]] = {}
    for job in jobs:
        alike.setdefault(company_of(job) or job.run_id, []).append(job)
    units: list[list[Job]] = []
    for group in alike.values():
        each = min(min(map(most, group)), -(-len(group) // max(1, workers)))
        # Members of like length finish together, and a task's data is read once for jobs in a row.
        group.sort(key=lambda job: (-(job.steps or 0), job.spec.task.data_sha256))
        group = [replace(job, at_once=each) for job in group]
        parts = [group[start : start + each] for start in range(0, len(group), each)]
        # Dealt out in turn, so that every worker gets as many long jobs as any other.
        count = min(len(parts), max(1, workers)) if each > 1 else len(parts)
        units += [[job for part in parts[first::count] for job in part] for first in range(count)]
    place = {job.run_id: index for index, job in enumerate(jobs)}
    return sorted(units, key=lambda unit: min(place[job.run_id] for job in unit))


def company_of(job: Job) -> str | None:
    """Return the key that runs sharing a pack must have in common, or None for a run that must be done alone."""
    spec = job.spec
    options = packed_options(known_methods()[spec.method.name](**spec.method.options))
    if options is None or not job.task.kind_of.packs or not _packs(job.base_model.model_type, spec):
        return None
    method = {**MAY_DIFFER["method"], "options": dict.fromkeys(options, True)}
    # A prefix trained by another run is no longer made by a network.
    return in_common(job, {**MAY_DIFFER, "method": method}) + str(spec.start is not None)


def _packs(model_type: str, spec: PlannedSpec) -> bool:
    method, recipe = spec.method, spec.training
    if not any(model_type in family.packed_types for family in FAMILIES):
        return False
    # Shared time says nothing about the time of one run.
    clocked = recipe.uses("train_seconds")
    drops = recipe.base_dropout != 0 or recipe.head_dropout != 0 or method.options.get("dropout", 0) != 0
    alone = recipe.accumulation == 1 and recipe.processes == 1
    usual = ARGUMENTS.issuperset(recipe.arguments) and recipe.arguments.get("optim", OPTIMISERS[0]) in OPTIMISERS
    # Those that end at a plateau have each an end of its own, known only when it comes.
    settled = not clocked and recipe.plateau is None and recipe.class_weights is None
    settled = settled and recipe.base_precision == "float32"
    settled = settled and not (recipe.gradient_checkpointing or recipe.sample_packing)
    return settled and alone and usual and (recipe.masks == "keyed" or not drops)
