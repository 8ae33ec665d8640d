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
    """A run that is being prepared: *facts* receives what is found, and *seed* is that of everything random.

    A pack draws the masks of its members and evaluates them on the selection split.
    """

    job: Job
    facts: Facts
    method: Method
    seed: int
    notify: Notify | None
    packed: bool
    rank: WorkerRank | None
