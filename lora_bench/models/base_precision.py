"""A base model stored in sixteen bits under trained weights in float32, and the operations in which both meet.

A product is done in the type of its weight, and leaves in the base's type, so that activations take half the memory too. The
head is in float32, with its inputs and its logits.
"""

import contextlib
import functools
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

from lora_bench.errors import UnsupportedPair, first_line
from lora_bench.records.spec import AnyPrecision
from lora_bench.tuners.trial import inside_peft

NOT_IN_FLOAT16 = "all weights cannot be trained in float16, where small updates and gradients vanish: take bfloat16"

# Operations with a weight, and its place among the arguments; the others join what was computed.
_WEIGHTED: dict[Any, tuple[int, str]] = {
    F.linear: (1, "weight"),
    F.conv1d: (1, "weight"),
    F.layer_norm: (2, "weight"),
    torch.addmm: (2, "mat2"),
}
_JOINING = {
    torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, Tensor.bmm, torch.baddbmm, torch.einsum, torch.cat,
    F.scaled_dot_product_attention,
}  # fmt: skip


class Meeting(TorchFunctionMode):
    """Gives operations that refuse operands of several types all in one, and returns the result in the base's type."""

    def __init__(self, base: torch.dtype) -> None:
        super().__init__()
        self.base = base

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _WEIGHTED or func in _JOINING:
            operands = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
            if len({one.dtype for one in operands if one.is_floating_point()}) > 1:
                place, name = _WEIGHTED.get(func, (len(args), ""))
                weight = args[place] if place < len(args) else kwargs.get(name)
                dtype = self.base if weight is None else weight.dtype
                args, kwargs = tree_map_only(Tensor, functools.partial(_in, dtype), (args, kwargs))
                return func(*args, **kwargs).to(self.base)
        elif func is Tensor.masked_fill and args[0].is_floating_point() and isinstance(args[2], float):
            # The least number of another type.
            args = (*args[:2], max(args[2], torch.finfo(args[0].dtype).min))
        return func(*args, **kwargs)


def _in(dtype: torch.dtype, tensor: Tensor) -> Tensor:
    """Return a tensor of floating-point numbers in a type; others as they are."""
    if not tensor.is_floating_point() or tensor.dtype == dtype:
        return tensor
    if dtype.itemsize < tensor.dtype.itemsize and not tensor.requires_grad:
        # The least number of a mask would become infinite, and a row of these has no softmax.
        tensor = tensor.clamp(min=torch.finfo(dtype).min)
    return tensor.to(dtype)


def _in_both_passes() -> tuple[contextlib.AbstractContextManager[object], contextlib.AbstractContextManager[object]]:
    """Return the contexts of a first and of a second pass: the second has the modes in which the first begins."""
    modes = torch.overrides._get_current_function_mode_stack()

    @contextlib.contextmanager
    def second() -> Iterator[None]:
        with contextlib.ExitStack() as entered:
            for mode in modes:
                entered.enter_context(mode)
            yield

    return contextlib.nullcontext(), second()


ANEW: dict[str, Any] = {"use_reentrant": False, "context_fn": _in_both_passes}
"""Options of torch's checkpointing, for what is computed anew in the backward pass."""


def checkpoint_layers(model: nn.Module) -> None:
    """Make an adapted model keep the inputs of its layers alone, and compute each anew in the backward pass, in place.

    The passes are the same to the bit, dropout among them. Raise UnsupportedPair if transformers cannot do so for its class.
    """
    inner: Any = inside_peft(model)
    # The second name is that of releases before 5.24.
    enable = getattr(inner, "activation_checkpointing_enable", None) or inner.gradient_checkpointing_enable
    try:
        enable(dict(ANEW))
    except ValueError as error:
        raise UnsupportedPair(f"its activations cannot be computed anew: {first_line(error)}") from None


def meet(model: nn.Module, head: Sequence[str], precision: AnyPrecision) -> None:
    """Give an adapted model's trained weights float32 over its base in *precision*, in place.

    If every weight is trained, those of the base stay in *precision*. Raise UnsupportedPair if that is float16.
    """
    if precision == "float32":
        return
    base: torch.dtype = getattr(torch, precision)
    if not all(weight.requires_grad for weight in model.parameters()):
        for weight in model.parameters():
            if weight.requires_grad:
                weight.data = weight.data.float()
    elif base == torch.float16:
        raise UnsupportedPair(NOT_IN_FLOAT16)
    names = "|".join(map(re.escape, head))
    for path, module in model.named_modules():
        if head and re.search(rf"(?:^|\.)(?:{names})$", path):
            module.register_forward_pre_hook(_to_float32, with_kwargs=True)
    inner = inside_peft(model)
    for module in {inner, getattr(inner, inner.base_model_prefix, inner)}:
        module.forward = _within(module.forward, base)


def meeting(precision: AnyPrecision) -> contextlib.AbstractContextManager[object]:
    """Return the context in which parts of a model that `meet` changed can be called by themselves."""
    return contextlib.nullcontext() if precision == "float32" else Meeting(getattr(torch, precision))


def _to_float32(module: nn.Module, args: Any, kwargs: Any) -> Any:
    return tree_map_only(Tensor, functools.partial(_in, torch.float32), (args, kwargs))


def _within(forward: Callable[..., Any], base: torch.dtype) -> Callable[..., Any]:
    @functools.wraps(forward)
    def met(*args: Any, **kwargs: Any) -> Any:
        with Meeting(base):
            return forward(*args, **kwargs)

    return met
