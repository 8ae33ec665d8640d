"""What an executor is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from lora_bench.job import Job
    from lora_bench.record import Record

Unit = Sequence["Job"]


@dataclass(frozen=True)
class Event:
    """What happened in a run: it began (step 0), or a step was done."""

    run_id: str
    step: int
    steps: int
    loss: float | None = None


@dataclass(frozen=True)
class Lost:
    """A job whose worker died before it gave a record, and of what."""

    job: Job
    reason: str


class Execute(Protocol):
    """Do units of work."""

    def __call__(self, units: Sequence[Unit], tell: Callable[[Event], None]) -> Iterator[Record | Lost]:
        """Yield the record of each job as it is done."""
