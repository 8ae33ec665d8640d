"""Memory of a training step of any depth and batch size, from steps of two and of three layers.

A step is a sequence of operations. At one length, the bytes held after each of them grow linearly with the rows of a batch and,
outside the layers in the middle, with the number of layers. A layer in the middle holds less than the first or the last one.
So four small steps on fake tensors give the peak of any batch of a deep model, and four more that of batches whose loss is
computed in chunks.
"""

import re
from collections.abc import Callable, Collection
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from lora_bench.documents import Strict
from lora_bench.models.base_precision import checkpoint_layers
from lora_bench.records.spec import Precision
from lora_bench.training.measure.bare_step import TrainingStep
from lora_bench.training.measure.counters import state_bytes
from lora_bench.training.measure.step_bytes import Allocations, FusedAttention, fake_inputs, static_bytes

ROWS, DEPTHS = (2, 3), (2, 3)
_MIDDLE, _HEAD = "middle", "head"


class StepTrace(Strict):
    """A step with its bytes.

    Args:
        parts: Its parts in order, by name, each with the bytes held after every allocation in it, beside weights and states.
        weights: Bytes of weights and buffers.
        gradients: Bytes of gradients.
        states: Bytes of the optimiser's states.
        trained: Number of trained weights.
        flops: Operations of its matrix products, attention included.
    """

    parts: tuple[tuple[str, tuple[int, ...]], ...]
    weights: int
    gradients: int
    states: int
    trained: int
    flops: int

    @property
    def activations(self) -> int:
        """Bytes held between the last layer and the head."""
        return next(values[0] for name, values in self.parts if name == _HEAD)

    @property
    def logits(self) -> int:
        """Bytes by which the work of the head, with logits and their gradient, exceeds the activations below it."""
        return max(max(values) for name, values in self.parts if name == _HEAD) - self.activations

    @property
    def peak(self) -> int:
        """The most bytes held at once."""
        return self.weights + self.states + max(max(values) for _, values in self.parts)


RowSteps = tuple[tuple[int, int, StepTrace], ...]
"""Steps of two neighbouring numbers of rows at each of `DEPTHS`, or at their whole depth alone: rows, depth and step."""


class StepTraces(Strict):
    """Steps of `ROWS` of a model with so many layers, and *chunked* ones, for batches of *chunked_from* rows and more."""

    steps: RowSteps
    layers: int
    chunked: RowSteps = ()
    chunked_from: int | None = None

    @property
    def whole(self) -> "StepTraces":
        """The steps without chunks, whatever the batch."""
        return StepTraces(steps=self.steps, layers=self.layers)

    def at(self, rows: int) -> StepTrace:
        """Return the step of so many rows with all layers."""
        chunked = self.chunked_from is not None and rows >= self.chunked_from
        traced = self.chunked if chunked else self.steps
        first = traced[0][0]
        deep = len(traced) == len(ROWS)
        steps = [
            (step, _weight(rows, (first, first + 1), own) * (1 if deep else _weight(self.layers, DEPTHS, depth)))
            for own, depth, step in traced
        ]

        parts = []
        for index, (name, _) in enumerate(traced[0][2].parts):
            columns = [(step.parts[index][1], weight) for step, weight in steps]
            if chunked and name == _HEAD:  # the number of chunks differs, and the size of the last one
                columns = [((values[0], max(values)), weight) for values, weight in columns]
            if len({len(values) for values, _ in columns}) > 1:  # of the update, which visits every tensor
                columns = [((max(values),), weight) for values, weight in columns]
            weights = [weight for _, weight in columns]
            lines = zip(*(values for values, _ in columns), strict=True)
            parts.append((name, tuple(sum(map(int.__mul__, weights, line)) for line in lines)))
        numbers = StepTrace.model_fields.keys() - {"parts"}
        mixed = {name: sum(weight * getattr(step, name) for step, weight in steps) for name in numbers}
        return StepTrace(parts=tuple(parts), **mixed)


def _weight(at: int, two: tuple[int, int], own: int) -> int:
    """Return the weight of one of two neighbouring points for a value on the line through both."""
    return at - two[0] if own == two[1] else two[1] - at


def trace_step(
    model: nn.Module,
    layer: str,
    batch: dict[str, tuple[int, ...]],
    precision: Precision,
    *,
    fused_attention: bool,
    checkpointing: bool = False,
    real: Collection[str] = (),
) -> StepTrace:
    """Return the trace of a step of a model on the meta device; *layer* matches the path of each layer.

    With *checkpointing* each layer computes again in the backward pass. The other arguments are those of `predict_step`. Raise
    RuntimeError if the computation depends on values.
    """
    attention = FusedAttention()
    if checkpointing:
        checkpoint_layers(model)
    with FakeTensorMode(allow_non_fake_inputs=True), attention if fused_attention else nullcontext():
        step = TrainingStep(model, fake_inputs(model, batch, real), precision)
        for weight in step.trained:
            weight.grad = torch.zeros_like(weight)
        step.update()  # makes the optimiser's states
        attention.flops = 0
        with Allocations() as held:
            marks = [("begin", 0)]
            _mark_layers(model, layer, lambda name: marks.append((name, len(held.trace))))
            loss = step.forward()
            loss.backward()
            del loss
            marks.append(("update", len(held.trace)))
            step.update()
        ends = [start for _, start in marks[1:]] + [len(held.trace)]
        held.trace.append(held.held)  # a part without allocations holds what is left
        weights, gradients = static_bytes(model)
        return StepTrace(
            parts=tuple(
                (name, tuple(held.trace[start : max(end, start + 1)]))
                for (name, start), end in zip(marks, ends, strict=True)
                if name != _MIDDLE
            ),
            weights=weights,
            gradients=gradients,
            states=state_bytes(step.optimizer),
            trained=sum(weight.numel() for weight in step.trained),
            flops=held.flops + attention.flops,
        )


def _mark_layers(model: nn.Module, layer: str, mark: Callable[[str], None]) -> None:
    """Let each layer of a model call *mark* with its name before its work, forward and backward, and the head with its own."""
    layers = [module for path, module in model.named_modules() if re.fullmatch(layer, path)]
    for place, module in enumerate(layers):
        name = "last" if place == len(layers) - 1 else "first" if place == 0 else _MIDDLE

        def begun(module: nn.Module, inputs: Any, name: str = name) -> None:
            mark(name)

        def ended(module: nn.Module, inputs: Any, output: Any, name: str = name) -> None:
            hidden: Tensor = output if isinstance(output, Tensor) else output[0]
            if name == "last":
                mark(_HEAD)
            if hidden.requires_grad:
                hidden.register_hook(lambda gradient: mark(name))

        module.register_forward_pre_hook(begun)
        module.register_forward_hook(ended)
