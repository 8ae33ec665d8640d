"""The memory of a run's training step, counted from its shapes: the one number that plans show and warn of."""

from lora_bench.errors import LoraBenchError
from lora_bench.methods import known_methods
from lora_bench.plan.cell import Cell
from lora_bench.records.probe_record import StepBytes
from lora_bench.training.measure.step_costs import needed_bytes, predicted_step

# Logits, their copy in float32, and its gradient.
LOGIT_BYTES = 12


def counted_step(cell: Cell, *, cuda: bool) -> StepBytes | None:
    """Return the memory of a training step at its longest inputs; None if it depends on more than shapes."""
    spec = cell.job.spec
    if spec.training.parallelism == "fsdp":
        return None  # what is held of a layer while another is at work depends on how they overlap
    method = known_methods()[spec.method.name](**spec.method.options)
    try:
        return predicted_step(
            cell.job.base_model,
            method,
            cuda=cuda,
            kind=cell.job.task.kind_of.model_kind,
            labels=max(1, len(spec.task.labels)),
            batch_size=spec.training.batch_size // (spec.training.accumulation * spec.training.processes),
            length=spec.training.max_length,
            precision=spec.training.precision,
            base_precision=spec.training.base_precision,
            checkpointing=spec.training.gradient_checkpointing,
        )
    except (LoraBenchError, RuntimeError):
        return None  # what the model computes depends on its numbers


def memory_beyond(cell: Cell, memory: int, *, cuda: bool) -> int | None:
    """Return the bytes that a run needs if they are more than *memory*; its arithmetic estimate if its step is not counted."""
    recipe, shape = cell.job.spec.training, cell.fit.shape
    logits = 0
    if cell.job.task.writes and shape is not None:
        rows = recipe.batch_size // (recipe.accumulation * recipe.processes)
        logits = LOGIT_BYTES * rows * recipe.max_length * shape.vocabulary
    # A count takes seconds for a large model, and arithmetic is within a factor of four.
    step = counted_step(cell, cuda=cuda) if 4 * (cell.estimate.memory_bytes + logits) > memory else None
    counted = None if step is None else needed_bytes(step) if cuda else step.peak_bytes
    need = cell.estimate.memory_bytes if counted is None else counted
    return need if need > memory else None
