"""A run over several processes: what each of them, a rank, takes of a batch, and what its loss counts for.

All ranks take the same steps, each with its share of every batch, and their gradients are averaged. A share's loss is weighed
by what it counts of the whole, so that the average is the batch's own loss and gradient, whatever the sizes of the shares.
"""

from __future__ import annotations

import functools
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch

if TYPE_CHECKING:
    from transformers import Trainer

    from lora_bench.training.keyed_dropout import StepMasks

Example = Mapping[str, Any]
MadeT = TypeVar("MadeT")

# The label of a token that the loss leaves out.
_NO_LOSS = -100


@dataclass(frozen=True)
class WorkerRank:
    """One of the processes of a run.

    Args:
        number: From 0; the first writes what the run leaves.
        processes: How many there are.
        shards: Whether each holds a part of every weight, so that all of them go through the model together.
    """

    number: int
    processes: int
    shards: bool

    @property
    def first(self) -> bool:
        """Whether it is the one that writes."""
        return self.number == 0

    @property
    def evaluates(self) -> bool:
        """Whether it answers questions; what all weights are needed for, all do."""
        return self.first or self.shards

    def agreed(self, stop: str | None, due: bool = False) -> tuple[str | None, bool]:
        """The name of a signal, and whether something is due, as the first rank has them; all ask it at the same time."""
        device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
        said = torch.tensor([signal.Signals[stop] if stop else 0, due], device=device)
        torch.distributed.broadcast(said, 0)
        number, is_due = said.tolist()
        return (signal.Signals(number).name if number else None), bool(is_due)

    def after_first(self, do: Callable[[], MadeT]) -> MadeT:
        """What *do* gives, done by the first rank before the others, who then find what it left."""
        if not self.first:
            torch.distributed.barrier()
        made = do()
        if self.first:
            torch.distributed.barrier()
        return made


@dataclass(frozen=True)
class Share:
    """What one rank takes of a batch.

    Args:
        examples: Its rows; where there are fewer rows than ranks, one that counts for nothing.
        first_row: The place of the first of them in the batch.
        weight: What the mean over its rows is multiplied by, so that the mean over ranks is that over the batch.
    """

    examples: Sequence[Example]
    first_row: int
    weight: float


class BatchShares(Sequence[Share]):
    """The shares of batches in the order in which accelerate deals examples out: batch by batch, and in it rank by rank.

    Args:
        examples: In the order in which they are seen.
        rows: Of a batch; the last may have fewer.
        processes: Shares of each.
    """

    def __init__(self, examples: Sequence[Example], rows: int, processes: int) -> None:
        self._examples, self._rows, self._processes = examples, rows, processes

    def __len__(self) -> int:
        return -(-len(self._examples) // self._rows) * self._processes

    def __getitem__(self, index: int) -> Share:  # type: ignore[override]  # nobody takes slices
        if not 0 <= index < len(self):
            raise IndexError(index)
        number, rank = divmod(index, self._processes)
        batch = self._examples[number * self._rows : (number + 1) * self._rows]
        first, last = (edge * len(batch) // self._processes for edge in (rank, rank + 1))
        if first == last:
            return Share(batch[:1], 0, 0.0)
        share = batch[first:last]
        return Share(share, first, self._processes * sum(map(_counted, share)) / sum(map(_counted, batch)))


def _counted(example: Example) -> int:
    """What a loss is a mean over: an example, or in a text the tokens that are predicted, so never the first."""
    labels = example["labels"]
    return sum(label != _NO_LOSS for label in labels[1:]) if isinstance(labels, list) else 1


def collate_share(collate: Callable[[Any], Mapping[str, Any]]) -> Callable[[list[Share]], dict[str, Any]]:
    """What makes a rank's batch of its share, with *collate* for the rows."""

    def collated(shares: list[Share]) -> dict[str, Any]:
        (share,) = shares
        return {**collate(list(share.examples)), "share": (share.first_row, share.weight)}

    return collated


def weigh_shares(trainer: Trainer, masks: StepMasks | None) -> None:
    """Have a Trainer weigh the loss of each share, and keyed masks know whose rows they are for."""
    compute_loss = trainer.compute_loss

    @functools.wraps(compute_loss)
    def weighed(model: Any, inputs: dict[str, Any], *arguments: Any, **options: Any) -> Any:
        first_row, weight = inputs.pop("share")
        if masks is not None:
            masks.share = (first_row, len(inputs["input_ids"]))
        return compute_loss(model, inputs, *arguments, **options) * weight

    trainer.compute_loss = weighed
