"""Models that share one frozen base, with their trained weights stacked: one forward pass for all of them.

The base's layers see the tokens of all members at once. The trained weights of a member are a slice of a stacked tensor, and
`vmap` makes batched products of the layers that use it. Tensors that depend on a member's weights become its own automatically:
if LoRA adapts query and key, DeBERTa's projected relative positions are one table for each member.

A member stays an ordinary model: its parameters are views of the stacks, so evaluation and saving see its weights as usual.
If sizes differ (ranks, widths of bottlenecks) the stack has the largest, and the rest is zeros. They stay zeros: a row of A and
the column of B that it meets are both zero, so both gradients are.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self

import torch
from peft.tuners.lora.layer import LoraLayer
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from lora_bench.kinds.exercises.base_exercise import Loss
from lora_bench.kinds.exercises.predicting import evaluating
from lora_bench.training.keyed_dropout import KeyedMasks
from lora_bench.tuners.fused_lora import FusedLoraLayer


class Stack:
    """Models of one shape, except for the size of their method, with one frozen base.

    The members have the same names of trained weights, and the code of the first is used. If *causal*, a token sees only those
    before it; None is for a model family that makes its own masks of the rows'. The token *pad* fills up rows.
    """

    def __init__(self, members: Sequence[nn.Module], *, causal: bool | None, pad: int) -> None:
        self.members = list(members)
        self.causal = causal
        self.pad = pad
        self.weights: dict[str, Tensor] = {}
        self._factors: dict[str, Tensor] = {}
        names = [_trained(member).keys() for member in members]
        assert all(one == names[0] for one in names), "members of a stack train weights of the same names"
        self.restack()

    def restack(self) -> None:
        """Stack the members' weights anew; needed after `members` changed."""
        trained = [_trained(member) for member in self.members]
        self.weights = {}
        for name in trained[0]:
            self.weights[name] = side_by_side([member[name].data for member in trained]).requires_grad_()
            for index, member in enumerate(trained):
                member[name].data = slice_of(self.weights[name].data, index, member[name].shape)
        self._factors = {}
        factors = [dict(_factors(member)) for member in self.members]
        for name in factors[0]:
            own = [one[name] for one in factors]
            if len(set(own)) > 1:
                self._factors[name] = torch.tensor(own, dtype=torch.float64)

    def __call__(
        self, batches: Sequence[Mapping[str, Tensor]], keys: Tensor | None, loss: Loss, sites: int = 0
    ) -> tuple[Tensor, Tensor, int]:
        """Return the loss of every member on its own batch, shape (members,).

        *keys* are those of the masks, shape (members, 2), int32; None for no dropout at all. The first dropout has the number
        *sites*. With the losses come logits, shape (members, rows, ...), and the number of the next dropout.
        """
        inputs, labels = self.joined(batches)
        chassis = self.members[0]
        after = sites

        def one(
            weights: dict[str, Tensor],
            factors: dict[str, Tensor],
            inputs: dict[str, Tensor],
            labels: Tensor,
            key: Tensor | None,
        ) -> tuple[Tensor, Tensor]:
            nonlocal after
            with scaled_by(chassis, factors), AutocastWithin(labels.device.type):
                if key is None:
                    logits = functional_call(chassis, weights, kwargs=inputs).logits
                else:
                    with KeyedMasks(key, sites) as masks:
                        logits = functional_call(chassis, weights, kwargs=inputs).logits
                    after = masks.site
            return loss(logits, labels), logits

        losses, logits = vmap(one, in_dims=(0, 0, 0, 0, None if keys is None else 0))(
            self.weights, self.factors_on(labels.device), inputs, labels, keys
        )
        return losses, logits, after

    def logits(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return every member's logits on one batch without labels, without dropout, of shape (members, rows, ...)."""
        chassis = self.members[0]
        device = next(iter(self.weights.values())).device
        inputs = {name: tensor.to(device) for name, tensor in batch.items()}
        if self.causal is not None:
            inputs["attention_mask"] = whole_mask(inputs["attention_mask"], causal=self.causal)

        def one(weights: dict[str, Tensor], factors: dict[str, Tensor]) -> Tensor:
            with scaled_by(chassis, factors), AutocastWithin(device.type):
                found: Tensor = functional_call(chassis, weights, kwargs=inputs).logits
            return found

        with evaluating(chassis):
            return vmap(one)(self.weights, self.factors_on(device))

    def part(self, which: Sequence[int]) -> Self:
        """Return a stack of some members, by their numbers, with a copy of their present weights, for evaluation."""
        part = copy.copy(self)
        part.members = [self.members[index] for index in which]
        part.weights = {name: weight.detach()[list(which)] for name, weight in self.weights.items()}
        part._factors = {name: factor[list(which)] for name, factor in self._factors.items()}
        return part

    def factors_on(self, device: torch.device) -> dict[str, Tensor]:
        """Return the factors that differ, by the names of their modules, each of shape (members,)."""
        dtype = next(iter(self.weights.values())).dtype
        return {name: factor.to(device, dtype, non_blocking=True) for name, factor in self._factors.items()}

    def joined(self, batches: Sequence[Mapping[str, Tensor]]) -> tuple[dict[str, Tensor], Tensor]:
        """Join the batches: inputs of shape (members, rows, tokens), and labels that ignore the padding."""
        device = next(iter(self.weights.values())).device
        rows = max(len(batch["input_ids"]) for batch in batches)
        tokens = max(batch["input_ids"].shape[1] for batch in batches)
        filling = {"input_ids": self.pad, "labels": -100}
        inputs: dict[str, Tensor] = {}
        for name in batches[0]:
            values = [batch[name] for batch in batches]
            # Numbers are those of several labels; all other rows have a value a token.
            width = values[0].shape[-1] if values[0].is_floating_point() else tokens
            shape = (len(batches), rows, *([width] if values[0].dim() == 2 else []))
            fill = filling.get(name, 0) if not values[0].is_floating_point() else torch.nan
            inputs[name] = values[0].new_full(shape, fill)
            for index, value in enumerate(values):
                slice_of(inputs[name], index, value.shape).copy_(value)
        inputs = {name: tensor.to(device, non_blocking=True) for name, tensor in inputs.items()}
        labels = inputs.pop("labels")
        # A padding row attends to something, or its attention would divide zero by zero.
        mask = inputs["attention_mask"]
        mask[..., 0] |= mask.sum(-1) == 0
        if self.causal is not None:
            inputs["attention_mask"] = whole_mask(mask, causal=self.causal)
        return inputs, labels


def whole_mask(mask: Tensor, *, causal: bool) -> Tensor:
    """Return which token sees which, so that no model has to read a mask to find out how to build its own.

    *mask* has the shape (..., tokens), with 1 for a real token, and the result (..., 1, tokens, tokens), bool. If *causal*, a
    token sees only those before it.
    """
    tokens = mask.shape[-1]
    every = torch.ones(tokens, tokens, dtype=torch.bool, device=mask.device)
    seen = mask.bool()[..., None, None, :] & (every.tril() if causal else every)
    # Padding on the left sees itself: attention to nothing is NaN, and NaN times 0 stays NaN.
    return seen | torch.eye(tokens, dtype=torch.bool, device=mask.device)


def side_by_side(tensors: Sequence[Tensor]) -> Tensor:
    """Stack tensors with equally many dimensions, each in the first corner of its slice, padded with zeros."""
    largest = [max(lengths) for lengths in zip(*(tensor.shape for tensor in tensors), strict=True)]
    stacked = tensors[0].new_zeros(len(tensors), *largest)
    for index, tensor in enumerate(tensors):
        slice_of(stacked, index, tensor.shape).copy_(tensor)
    return stacked


def slice_of(stacked: Tensor, index: int, shape: Sequence[int]) -> Tensor:
    """Return one member's part of a stack, as a view."""
    return stacked[(index, *(slice(length) for length in shape))]


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def _factors(model: nn.Module) -> Iterator[tuple[str, float]]:
    """Yield the factor on the update of each LoRA site, with its name."""
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            yield name, float(module.scaling[_adapter(module.scaling)])
        elif isinstance(module, FusedLoraLayer):
            yield name, module.configs[_adapter(module.configs)].scaling


def _adapter(names: Mapping[str, Any]) -> str:
    (name,) = names
    return name


@contextmanager
def scaled_by(model: nn.Module, factors: Mapping[str, Tensor]) -> Iterator[None]:
    """Scale the updates by these factors in this block; each is one number, of the current member."""
    before: list[tuple[dict[str, Any], str, Any]] = []
    for name, factor in factors.items():
        module = model.get_submodule(name)
        if isinstance(module, LoraLayer):
            held, value = module.scaling, factor
        else:
            assert isinstance(module, FusedLoraLayer)
            held, value = module.configs, copy.copy(module.configs[_adapter(module.configs)])
            value.lora_alpha, value.r, value.use_rslora = factor, 1, False
        adapter = _adapter(held)
        before.append((held, adapter, held[adapter]))
        held[adapter] = value
    try:
        yield
    finally:
        for held, adapter, value in before:
            held[adapter] = value


LOWER = frozenset(
    {
        "addbmm", "addmm", "addmv", "addr", "baddbmm", "bmm", "chain_matmul", "conv1d", "conv2d", "conv3d", "einsum", "linear",
        "matmul", "mm", "mv", "prelu", "rmatmul", "scaled_dot_product_attention",
    }
)  # fmt: skip
"""Operations that autocast does in the lower precision on every device, by name."""

WHOLE = {
    "cuda": frozenset(
        {
            "cosine_similarity", "cumprod", "cumsum", "exp", "expm1", "group_norm", "layer_norm", "linalg_vector_norm", "log",
            "log10", "log1p", "log2", "log_softmax", "logsumexp", "norm", "pow", "prod", "reciprocal", "rpow", "rsqrt",
            "softmax", "softplus", "sum",
        }
    ),
}  # fmt: skip
"""Operations that it does in float32 on a device, losses aside, which packs compute themselves."""


class AutocastWithin(TorchFunctionMode):
    """Within it, operations of a model have the types that autocast gives them; nothing changes where autocast is off.

    `vmap` takes an operation apart before autocast sees it: a linear layer becomes a product, which autocast casts, and a sum
    with a bias, which it does not, so the result is float32. Here arguments are cast where the model calls the operation.
    """

    def __init__(self, device_type: str) -> None:
        super().__init__()
        self._lower = torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else None
        self._whole = WHOLE.get(device_type, frozenset())

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if self._lower is not None:
            name = getattr(func, "__name__", "").strip("_")
            dtype = self._lower if name in LOWER else torch.float32 if name in self._whole else None
            if dtype is not None:
                args, given = tree_map_only(Tensor, lambda tensor: _cast(tensor, dtype), (args, given))
        return func(*args, **given)


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a tensor as autocast casts it: integers and float64 stay as they are."""
    return tensor.to(dtype) if tensor.is_floating_point() and tensor.dtype != torch.float64 else tensor
