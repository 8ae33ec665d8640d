"""Memory of a training step: measured on a model, and predicted from its shapes.

Both are one computation. Every storage that an operation makes is counted until its last reference ends, on real tensors or on
fake ones, which have shapes and no numbers. So a prediction needs no weights and no device, and takes seconds for the largest
models. FLOPs come from the same pass.
"""

import contextlib
import weakref
from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from lora_bench.records.probe_record import Flops, StepBytes
from lora_bench.records.spec import Precision
from lora_bench.training.measure.bare_step import TrainingStep
from lora_bench.training.measure.counters import state_bytes
from lora_bench.tuners.four_bit import scales_of


class Allocations(TorchDispatchMode):
    """Counts the bytes of every live storage that operations in this mode have made, but not those inside a kernel.

    It also counts the FLOPs of matrix products, by torch's own formulas. Torch's counter would keep the tensors of checkpointed
    layers.
    """

    def __init__(self) -> None:
        super().__init__()
        self.held = self.flops = 0
        self.trace: list[int] = []
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inside = {storage._cdata for storage in _storages(tree_leaves((args, kwargs)))}
        result = func(*args, **(kwargs or {}))
        before, count = self.held, flop_registry.get(func.overloadpacket)
        if count is not None:
            self.flops += int(count(*args, **(kwargs or {}), out_val=result))
        for storage in _storages(tree_leaves(result)):
            key = storage._cdata
            # A tensor made by Python from numbers first appears as the argument of `lift_fresh`.
            if key not in self._known and (key not in inside or func is torch.ops.aten.lift_fresh.default):
                self._known.add(key)
                self.held += storage.nbytes()
                weakref.finalize(storage, self._let_go, key, storage.nbytes())
        if self.held > before:
            self.trace.append(self.held)
        return result

    @property
    def peak(self) -> int:
        """The most bytes of live storages so far."""
        return max(self.trace, default=0)

    def _let_go(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.held -= size


def _storages(values: Iterable[Any]) -> Iterable[torch.UntypedStorage]:
    return (value.untyped_storage() for value in values if isinstance(value, Tensor))


def static_bytes(model: nn.Module) -> tuple[int, int]:
    """Return the bytes of weights and buffers, shared ones counted once, and of the trained weights' gradients."""
    scales = (scale for weight in model.parameters() for scale in scales_of(weight))
    held = {
        tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes()
        for tensor in (*model.parameters(), *model.buffers(), *scales)
    }
    gradients = sum(weight.numel() * weight.element_size() for weight in model.parameters() if weight.requires_grad)
    return sum(held.values()), gradients


def step_bytes(step: TrainingStep) -> tuple[StepBytes, Flops]:
    """Return the memory and FLOPs of a step, which this slows; activations are the tensors saved for the backward pass."""
    if not step.optimizer.state:
        step.whole()
    step.optimizer.zero_grad(set_to_none=True)
    weights, gradients = static_bytes(step.model)
    states = state_bytes(step.optimizer)
    with Allocations() as held:
        loss = step.forward()
        activations, forward = held.held, held.flops
        loss.backward()
        flops = Flops(forward=forward, step=held.flops)
        del loss
        step.update()
    found = StepBytes(
        weight_bytes=weights,
        gradient_bytes=gradients,
        optimizer_bytes=states,
        activation_bytes=activations,
        peak_bytes=weights + states + held.peak,
    )
    return found, flops


class FusedAttention(TorchFunctionMode):
    """Gives attention the memory of a fused CUDA kernel: its inputs, its output and a sum a row, and no probabilities.

    Under autocast its inputs are first cast to the lower precision, as torch does. On fake CPU tensors with dropout torch would
    otherwise take the path that stores all probabilities. *flops* are those of its matrix products, forward and backward.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is nn.functional.scaled_dot_product_attention:
            return _Fused.apply(self, *_attention_inputs(*args, **(kwargs or {})))
        return func(*args, **(kwargs or {}))


def _attention_inputs(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *rest: Any, **options: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    if torch.is_autocast_enabled(query.device.type):
        query, key, value = (one.to(torch.get_autocast_dtype(query.device.type)) for one in (query, key, value))
    return query, key, value, attn_mask


class _Fused(torch.autograd.Function):
    """Attention with the shapes and saved tensors of a fused kernel, and meaningless values."""

    @staticmethod
    def forward(
        ctx: Any, mode: FusedAttention, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None
    ) -> Tensor:
        ctx.mode = mode
        mode.flops += 4 * query.numel() * key.shape[-2]
        *outer, heads, rows, _ = query.shape
        # Kernels write the heads of a token side by side, so that the next layer needs no copy.
        output = query.new_empty((*outer, rows, heads, value.shape[-1])).transpose(-3, -2)
        sums = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, mask, output, sums)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor, Tensor, Tensor, None]:
        query, key, value, *_ = ctx.saved_tensors
        ctx.mode.flops += 8 * query.numel() * key.shape[-2]
        return None, torch.empty_like(query), torch.empty_like(key), torch.empty_like(value), None


def predict_step(
    model: nn.Module,
    batch: dict[str, tuple[int, ...]],
    precision: Precision,
    *,
    fused_attention: bool,
    real: Collection[str] = (),
) -> tuple[StepBytes, Flops]:
    """Return the predicted memory of a step and its FLOPs, from shapes alone.

    The tensors of the model, on the meta device, are replaced by fake ones. On fake numbers it cannot be told that a mask hides
    nothing, so the mask is kept even for a model that would drop it. FLOPs of *fused_attention* are not counted. *real* names
    the floating-point inputs, such as the labels of a regression. Raise RuntimeError if the computation depends on values,
    which fake tensors lack.
    """
    with (
        FakeTensorMode(allow_non_fake_inputs=True),
        FusedAttention() if fused_attention else contextlib.nullcontext(),
    ):
        return step_bytes(TrainingStep(model, fake_inputs(model, batch, real), precision))


def fake_inputs(model: nn.Module, batch: dict[str, tuple[int, ...]], real: Collection[str] = ()) -> dict[str, Tensor]:
    """Replace a model's tensors by fake CPU tensors, shared ones by a shared one, and return such inputs for it."""
    made: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                made.setdefault(id(weight), nn.Parameter(torch.empty_like(weight, device="cpu"), weight.requires_grad))
                module._parameters[name] = made[id(weight)]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty_like(buffer, device="cpu")
    return {
        name: torch.zeros(shape, dtype=torch.float32 if name in real else torch.long) for name, shape in batch.items()
    }
