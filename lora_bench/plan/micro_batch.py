"""The micro-batch of a run: the largest part of a batch whose step stays within a peak of memory.

The batch of a step stays the same and is split into equal parts, whose gradients add up. The memory of a part is predicted from
shapes alone (see `lora_bench.training.measure.step_costs`). From the second part on, the gradients of the first are in memory
too. So a split batch needs room for all gradients beside the peak of a part.
"""

from bisect import bisect_right
from collections.abc import Callable

from lora_bench.errors import BudgetUnreachable, LoraBenchError, UnsupportedPair, first_line
from lora_bench.kinds import KindName
from lora_bench.methods import Method
from lora_bench.models.registry import BaseModel
from lora_bench.records.environment import cuda_devices
from lora_bench.records.probe_record import StepBytes
from lora_bench.suite.schema import Training
from lora_bench.training.measure.step_costs import predicted_step


def micro_batch(
    base_model: BaseModel, method: Method, training: Training, peak_memory_bytes: int, *, kind: KindName, labels: int
) -> int:
    """Return the number of examples in the largest part of a batch that stays within a peak, at inputs of full length.

    Raise BudgetUnreachable if a single example needs more, with its need; UnsupportedPair if the memory of a step cannot be
    predicted.
    """

    def step(rows: int) -> StepBytes:
        try:
            return predicted_step(
                base_model,
                method,
                kind=kind,
                labels=labels,
                batch_size=rows,
                length=training.max_length,
                precision=training.precision,
                base_precision=training.base_precision,
                checkpointing=training.gradient_checkpointing,
                cuda=bool(cuda_devices()),
            )
        except UnsupportedPair:
            raise
        except (LoraBenchError, RuntimeError) as error:
            reason = first_line(error)
            raise UnsupportedPair(f"what a step holds cannot be predicted from shapes: {reason}") from error

    return largest_part(
        lambda rows: peak_of(step(rows), parts=training.batch_size // rows), training.batch_size, peak_memory_bytes
    )


def peak_of(step: StepBytes, *, parts: int) -> int:
    """Return the peak memory of a batch split into so many parts. Raise UnsupportedPair if it is unknown."""
    if step.peak_bytes is None:
        raise UnsupportedPair("what a step holds cannot be predicted from shapes")
    return step.peak_bytes + (step.gradient_bytes if parts > 1 else 0)


def largest_part(peak: Callable[[int], int], batch_size: int, peak_memory_bytes: int) -> int:
    """Return the largest divisor of a batch whose peak stays within a limit.

    *peak* gives the bytes for a part of so many examples. It grows with them, except for the whole batch, which has no earlier
    gradients. Raise BudgetUnreachable if a single example needs more, with its need.
    """
    if peak(batch_size) <= peak_memory_bytes:
        return batch_size
    parts = [rows for rows in range(1, batch_size) if batch_size % rows == 0]
    fitting = bisect_right(parts, peak_memory_bytes, key=peak)
    if not fitting:
        least = min(peak(rows) for rows in {1, batch_size})
        raise BudgetUnreachable(
            f"no part of a batch keeps a peak of {peak_memory_bytes:,} bytes: the least that a step takes is {least:,}"
        )
    return parts[fitting - 1]
