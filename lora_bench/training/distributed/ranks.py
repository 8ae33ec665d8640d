"""Worker ranks, the processes of one run: the share of a batch that each takes, and the weight of its loss.

All worker ranks take the same steps, each with its share of every batch, and their gradients are averaged. The loss of a share
is weighted by its part of the batch, so that the average is the batch's own loss and gradient, whatever the sizes.
"""

import functools
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from transformers import Trainer

from lora_bench.records.budget import TARGETS, rows_of
from lora_bench.training.keyed_dropout import StepMasks

Example = Mapping[str, Any]
MadeT = TypeVar("MadeT")

# Label of a token that the loss ignores.
_NO_LOSS = -100


@dataclass(frozen=True)
class WorkerRank:
    """One process of a run, numbered from 0; with *shards* each has a shard of every weight and joins every forward pass."""

    number: int
    processes: int
    shards: bool

    @property
    def first(self) -> bool:
        """Return True if this process writes the files."""
        return self.number == 0

    def agreed(self, stop: str | None, due: bool = False) -> tuple[str | None, bool]:
        """Return the stop signal and the due flag of the first worker rank; all must call it at the same time."""
        device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
        said = torch.tensor([signal.Signals[stop] if stop else 0, due], device=device)
        torch.distributed.broadcast(said, 0)
        number, is_due = said.tolist()
        return (signal.Signals(number).name if number else None), bool(is_due)

    def after_first(self, do: Callable[[], MadeT]) -> MadeT:
        """Return the result of *do*, called in the first worker rank before the others, which then find its files."""
        if not self.first:
            torch.distributed.barrier()
        made = do()
        if self.first:
            torch.distributed.barrier()
        return made


@dataclass(frozen=True)
class Share:
    """The share of a batch that one worker rank takes: its rows, and the index of the first in the batch.

    With fewer rows than worker ranks it is one row of weight 0. The weight is a factor on the mean loss of its rows, so that
    the mean over worker ranks is that over the batch.
    """

    examples: Sequence[Example]
    first_row: int
    weight: float


class BatchShares(Sequence[Share]):
    """The shares of batches in the order of accelerate's distribution: by batch, and in it by worker rank.

    A batch has so many examples, whose windows are all rows of it; the last may have fewer. *predicts_next* says that a label
    of a token is that of the token before it, as of a text to write.
    """

    def __init__(self, examples: Sequence[Example], rows: int, processes: int, *, predicts_next: bool = True) -> None:
        self._examples, self._rows, self._processes = examples, rows, processes
        self._counted = functools.partial(_counted, first=int(predicts_next))

    def __len__(self) -> int:
        return -(-len(self._examples) // self._rows) * self._processes

    def __getitem__(self, index: int) -> Share:  # type: ignore[override]  # slices are never taken
        if not 0 <= index < len(self):
            raise IndexError(index)
        number, rank = divmod(index, self._processes)
        batch = rows_of(self._examples[number * self._rows : (number + 1) * self._rows])
        first, last = (edge * len(batch) // self._processes for edge in (rank, rank + 1))
        if first == last:
            return Share(batch[:1], 0, 0.0)
        share = batch[first:last]
        return Share(share, first, self._processes * sum(map(self._counted, share)) / sum(map(self._counted, batch)))


def _counted(example: Example, first: int = 1) -> int:
    """Return the count that a loss is a mean over: 1 example, or its tokens with a label from the *first* on."""
    if TARGETS in example:
        return len(example[TARGETS])
    labels = example.get("labels")
    return sum(label != _NO_LOSS for label in labels[first:]) if isinstance(labels, list) else 1


def collate_share(collate: Callable[[Any], Mapping[str, Any]]) -> Callable[[list[Share]], dict[str, Any]]:
    """Return a function that makes a worker rank's batch of its share, using *collate* for the rows."""

    def collated(shares: list[Share]) -> dict[str, Any]:
        (share,) = shares
        return {**collate(list(share.examples)), "share": (share.first_row, share.weight)}

    return collated


def weigh_shares(trainer: Trainer, masks: StepMasks | None) -> None:
    """Make a Trainer weight the loss of each share, and tell keyed masks whose rows they are for."""
    compute_loss = trainer.compute_loss

    @functools.wraps(compute_loss)
    def weighed(model: Any, inputs: dict[str, Any], *arguments: Any, **options: Any) -> Any:
        first_row, weight = inputs.pop("share")
        if masks is not None:
            masks.share = (first_row, len(inputs["input_ids"]))
        return compute_loss(model, inputs, *arguments, **options) * weight

    trainer.compute_loss = weighed
