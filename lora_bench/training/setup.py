"""The inputs of everything before the first step of a run."""

from __future__ import annotations

from dataclasses import dataclass

from lora_bench.methods import Method
from lora_bench.training.attempt import Facts
from lora_bench.training.callbacks import Notify
from lora_bench.training.distributed.ranks import WorkerRank
from lora_bench.training.job import Job


@dataclass(frozen=True)
class Setup:
    """A run that is being prepared.

    Args:
        job: The run.
        facts: Receives the facts found.
        method: Method of the run, with its options.
        seed: Seed of everything random.
        notify: Called with each step.
        packed: True in a pack, which draws its masks and evaluates it on the selection split.
        rank: Worker rank, if the run has several processes.
    """

    job: Job
    facts: Facts
    method: Method
    seed: int
    notify: Notify | None
    packed: bool
    rank: WorkerRank | None
