"""The facts that everything before the first step of a run is made from."""

from __future__ import annotations

from dataclasses import dataclass

from lora_bench.methods import Method
from lora_bench.training.attempt import Facts
from lora_bench.training.callbacks import Notify
from lora_bench.training.distributed.ranks import WorkerRank
from lora_bench.training.job import Job


@dataclass(frozen=True)
class Setup:
    """A run that is about to be prepared.

    Args:
        job: The run.
        facts: Notes what is found.
        method: Of the run, with its options.
        seed: Of all that is drawn.
        notify: Told of each step.
        packed: Whether it takes its steps with others: the pack draws its masks, and asks it on the selection split.
        rank: Which of several processes this is, where the run has several.
    """

    job: Job
    facts: Facts
    method: Method
    seed: int
    notify: Notify | None
    packed: bool
    rank: WorkerRank | None
