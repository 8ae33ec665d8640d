"""Mixed precision within `vmap`, as `torch.autocast` has it for a model alone.

`vmap` takes an operation apart before autocast sees it: a linear layer becomes a product, which autocast casts, and a sum with
a bias, which it does not, so the result is float32. Here arguments are cast where the model calls the operation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

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
    """Within it, operations of a model have the types that autocast gives them; nothing changes where autocast is off."""

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
