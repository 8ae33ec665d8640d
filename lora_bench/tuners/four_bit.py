"""Linear weights of a base model in four bits, as QLoRA keeps them: NF4, with a scale of one byte for 64 weights.

bitsandbytes stores and multiplies them, on CUDA and on the CPU. On the meta device a stand-in has their bytes, and makes the
tensors that a step of theirs makes. So a plan needs neither numbers nor bitsandbytes' kernels.
"""

import importlib.util
import re
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lora_bench.errors import UnsupportedPair
from lora_bench.tuners.inferred_family import family_of_model

# Weights that share a scale, and scales that share a float32.
BLOCK, SCALES = 64, 256


def is_installed() -> bool:
    """Return True if bitsandbytes is installed; it is not imported, which may start CUDA."""
    return importlib.util.find_spec("bitsandbytes") is not None


def pack_layers(model: PreTrainedModel, keep: Collection[str] = (), *, shapes_only: bool = False) -> None:
    """Replace every linear module in a model's layers, but those named in *keep*, by one with its weight in four bits.

    Raise UnsupportedPair if a weight has rows that bitsandbytes cannot read on every CPU, or if it is not installed, which a
    model that is counted and never run (*shapes_only*) does not need.
    """
    if not (shapes_only or is_installed()):
        raise UnsupportedPair("a base in four bits needs bitsandbytes: pip install 'lora_bench[qlora]'")
    inside = re.compile(rf"{family_of_model(model).layer}\..+")
    # T5 reads the type of such a weight, and multiplies in it.
    left = {*keep, *(getattr(model, "_keep_in_fp32_modules", None) or ())}
    for path, module in [*model.named_modules()]:
        if type(module) in (nn.Linear, Conv1D) and inside.fullmatch(path) and not left.intersection(path.split(".")):
            width = module.weight.shape[0 if isinstance(module, Conv1D) else 1]
            if width % BLOCK:
                raise UnsupportedPair(
                    f"bitsandbytes packs {BLOCK} weights of a row at a time, and rows of {path} have {width}"
                )
            model.set_submodule(path, packed(module))
    known: Any = model
    known.is_loaded_in_4bit = True  # by which PEFT knows such a model


def packed(module: nn.Module) -> nn.Module:
    """Return a linear module with the weight of *module* in four bits, on its device, and with the same bias."""
    given: Any = module
    # GPT-2's Conv1D keeps its weight as (in_features, out_features).
    weight = given.weight.detach().T if isinstance(module, Conv1D) else given.weight.detach()
    outputs, inputs = weight.shape
    if weight.is_meta:
        return PackedShape(inputs, outputs, given.bias)
    import bitsandbytes

    kept = {"compress_statistics": True, "quant_type": "nf4"}
    made: nn.Module = bitsandbytes.nn.Linear4bit(inputs, outputs, bias=given.bias is not None, device="meta", **kept)
    made.weight = bitsandbytes.nn.Params4bit(weight.contiguous(), requires_grad=False, module=made, **kept)
    made.bias = given.bias
    return made.to(weight.device)  # here bitsandbytes packs it


class PackedShape(nn.Linear):
    """The stand-in of a linear module with a weight in four bits, on the meta device."""

    def __init__(self, inputs: int, outputs: int, bias: nn.Parameter | None) -> None:
        super().__init__(inputs, outputs, bias=False, device="meta")
        weights = inputs * outputs
        scales = -(-weights // BLOCK)
        self.weight = nn.Parameter(torch.empty(-(-weights // 2), 1, dtype=torch.uint8, device="meta"), False)
        self.bias = bias
        self.register_buffer("scales", torch.empty(scales, dtype=torch.uint8, device="meta"), persistent=False)
        self.register_buffer("outer_scales", torch.empty(-(-scales // SCALES), device="meta"), persistent=False)

    @property
    def saved_bytes(self) -> int:
        """The bytes by which it is smaller than its weight in float32."""
        held: int = sum(one.numel() * one.element_size() for one in (self.weight, *self.buffers()))
        return 4 * int(self.in_features * self.out_features) - held

    def forward(self, input: Tensor) -> Tensor:
        """Return an output of the right shape, by way of the whole weight."""
        output: Tensor = _Product.apply(input, self.bias, (self.out_features, self.in_features))
        return output


class _Product(torch.autograd.Function):
    """A product with a weight that is made anew for it, forward and backward, and not kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, shape: tuple[int, int]) -> Tensor:
        ctx.shape = shape
        return nn.functional.linear(x, x.new_empty(shape), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        return gradient @ gradient.new_empty(ctx.shape), None, None


def saved_bytes(model: nn.Module) -> int:
    """Return the bytes by which a model on the meta device is smaller than one with all weights in float32."""
    return sum(module.saved_bytes for module in model.modules() if isinstance(module, PackedShape))


def scales_of(weight: Tensor) -> list[Tensor]:
    """Return the tensors that bitsandbytes keeps beside a weight in four bits; none for other weights."""
    found: list[Tensor] = []
    state = getattr(weight, "quant_state", None)
    while state is not None:
        found += [one for one in vars(state).values() if isinstance(one, Tensor)]
        state = getattr(state, "state2", None)
    return found
