"""Dropout masks as a pure function of (seed, step, site, position in the tensor).

torch draws masks one after another from one stream. So the mask of a row depends on all draws before it, on the padding of
its batch, and on the device. Here a mask is a hash of its position: a run has the same masks alone, in a pack, after a
resumption, and on every device. The sites of a step are numbered in the order in which the model reaches them. A position is
the index of an element along each dimension, so padding on the right changes nothing before it.

The hash is a multiply-xorshift finaliser of 32 bits (https://github.com/skeeto/hash-prospector), twice, with half of the key
before each.
"""

import functools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from lora_bench.errors import first_line
from lora_bench.util.seeding import seed_for

logger = logging.getLogger(__name__)

# One factor for each dimension, counted from the last, and one for the sites: odd, and no small multiples of each other.
_STRIDES = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F, 0x165667B1, 0xD3A2646D)
_SITE = 0x632BE5AB

# The kernel counts the elements of a mask by numbers of 32 bits.
_OF_KERNEL = 2**30

_LOW = 0x9E3779B97F4A7C15  # keeps the two halves of a key apart for small seeds


def key_of(seed: int, step: int) -> tuple[int, int]:
    """Return the key of a step's masks: two signed numbers of 32 bits."""
    whole = seed_for("masks", seed, step) ^ _LOW
    return _signed(whole), _signed(whole >> 32)


def keep_mask(key: Tensor, site: int, shape: torch.Size, probability: float, first_row: int = 0) -> Tensor:
    """Return the mask of the elements that a dropout keeps, of a *shape* of at most six dimensions, bool.

    *key* is one of `key_of`, shape (2,), int32; *site* the number of the dropout in its step; *probability* that of dropping an
    element, in [0, 1); and *first_row* the index of the first row along the first dimension.
    """
    place = torch.zeros((), dtype=torch.int32, device=key.device)
    for back, length in enumerate(reversed(shape)):
        first = first_row if back == len(shape) - 1 else 0
        along = torch.arange(first, first + length, dtype=torch.int32, device=key.device) * _signed(_STRIDES[back])
        place = place + along.view(length, *[1] * back)
    mixed = place ^ (key[0] + _signed(site * _SITE))
    _mix(mixed)
    _mix(mixed.add_(key[1]))
    return mixed >= _threshold(probability)


def scaled_mask(
    key: Tensor, site: int, shape: torch.Size, probability: float, first_row: int = 0, *, dtype: torch.dtype
) -> Tensor:
    """Return the mask of `keep_mask` as factors whose expectation is 1, on CUDA by one kernel, where Triton works."""
    # A compiler fuses the plain code itself.
    plain = not key.is_cuda or dtype == torch.float64 or torch.compiler.is_compiling()
    if not plain and shape and shape.numel() < _OF_KERNEL and has_kernel():
        return _by_kernel(key, site, shape, probability, first_row, dtype)
    return keep_mask(key, site, shape, probability, first_row).to(dtype).div_(1 - probability)


def _by_kernel(
    key: Tensor, site: int, shape: torch.Size, probability: float, first_row: int, dtype: torch.dtype
) -> Tensor:
    from lora_bench.training.keyed_kernel import keyed_masks

    masks: Tensor = keyed_masks(
        key[None],
        list(shape),
        [_signed(stride) for stride in _STRIDES],
        _signed(first_row * _STRIDES[len(shape) - 1]),
        _signed(site * _SITE),
        _threshold(probability),
        _factor(probability, dtype),
        dtype,
    )
    return masks[0]


@functools.cache
def has_kernel() -> bool:
    """Return True if the kernel works here: Triton is installed, compiles, and gives the same mask."""
    key, shape = torch.tensor(key_of(0, 0), dtype=torch.int32, device="cuda"), torch.Size((3, 5, 7))
    try:
        if torch.equal(_by_kernel(key, 1, shape, 0.5, 2, torch.float32), keep_mask(key, 1, shape, 0.5, 2) * 2.0):
            return True
        fault = "it gives other masks on this device"
    except Exception as error:  # no Triton, no C compiler for it, or a card that it does not know
        fault = first_line(error)
    logger.warning("keyed masks are drawn without Triton, which is slower: %s", fault)
    return False


@functools.cache
def _factor(probability: float, dtype: torch.dtype) -> float:
    """Return the factor on an element that is kept, as rounded in *dtype*."""
    return float(torch.ones((), dtype=dtype).div_(1 - probability))


def _threshold(probability: float) -> int:
    return int(probability * 2**32) - 2**31


def _mix(x: Tensor) -> None:
    """Mix the bits of each number in place: memory takes most of the time on a CPU."""
    for shift, low, factor in ((16, 0xFFFF, 0x7FEB352D), (15, 0x1FFFF, _signed(0x846CA68B)), (16, 0xFFFF, 1)):
        x.bitwise_xor_((x >> shift).bitwise_and_(low))
        if factor != 1:
            x.mul_(factor)


def _signed(number: int) -> int:
    """Return the low 32 bits as a signed number, as torch's int32 stores it; its products wrap."""
    low = number & 0xFFFFFFFF
    return low - 2**32 if low >= 2**31 else low


class KeyedMasks(TorchFunctionMode):
    """Within it, every dropout of a model in training takes its mask from the *key*, shape (2,), int32.

    *site* is the number of the first; the parts of an accumulated batch go on from it. *share* has the first row and number of
    rows of a share of a batch, which a tensor with another first dimension has not.
    """

    def __init__(self, key: Tensor, site: int = 0, share: tuple[int, int] = (0, 0)) -> None:
        super().__init__()
        self.key = key
        self.site = site
        self.share = share

    def drop(self, x: Tensor, probability: float) -> Tensor:
        """Return *x* with some elements set to 0 and the others scaled up, so that its expectation stays."""
        first_row, rows = self.share
        first_row = first_row if x.shape[0] == rows else 0
        mask = scaled_mask(self.key, self.site, x.shape, probability, first_row, dtype=x.dtype)
        self.site += 1
        return x * mask

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if func is F.dropout:
            return self._dropout(*args, **given)
        if func is F.scaled_dot_product_attention:
            return self._attention(func, *args, **given)
        if func in _OTHERS:
            raise NotImplementedError(f"{func.__name__} has no keyed masks")
        return func(*args, **given)

    def _dropout(self, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        if not training or p == 0:
            return input
        dropped = self.drop(input, p)
        return input.copy_(dropped) if inplace else dropped

    def _attention(
        self,
        func: Callable[..., Tensor],
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """Compute attention with its dropout step by step: a fused kernel draws its own masks."""
        if not dropout_p:
            return func(query, key, value, attn_mask=attn_mask, is_causal=is_causal, scale=scale, enable_gqa=enable_gqa)
        if enable_gqa:
            key, value = (one.repeat_interleave(query.shape[-3] // one.shape[-3], -3) for one in (key, value))
        scores = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scale is None else scale)
        if is_causal:
            attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attn_mask, torch.finfo(scores.dtype).min)
        elif attn_mask is not None:
            scores = scores + attn_mask
        return self.drop(scores.softmax(-1), dropout_p) @ value


_OTHERS = (
    F.alpha_dropout, F.feature_alpha_dropout, F.dropout1d, F.dropout2d, F.dropout3d, torch.dropout, torch.dropout_,
    torch.feature_dropout, torch.native_dropout,
)  # fmt: skip


class StepMasks:
    """Keyed masks of one model that is trained alone."""

    share: tuple[int, int]
    """The share of the next batch, as in `KeyedMasks`."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.share = (0, 0)
        self._key = key_of(seed, 0)
        self._site = 0

    def begin(self, step: int) -> None:
        """Begin the step after so many others."""
        self._key, self._site = key_of(self.seed, step), 0

    @contextmanager
    def drawn(self, device: torch.device) -> Iterator[None]:
        """Apply the masks to a part of the step's batch in this block."""
        # A copy that blocks would wait for all that the device still has to do.
        key = torch.tensor(self._key, dtype=torch.int32).to(device, non_blocking=True)
        with KeyedMasks(key, self._site, self.share) as masks:
            yield
        self._site = masks.site


def with_keyed_masks(model: nn.Module, masks: StepMasks) -> None:
    """Make *model* take its masks from *masks* at every call."""
    forward = model.forward

    @functools.wraps(forward)
    def masked(*args: Any, **kwargs: Any) -> Any:
        device = next(model.parameters()).device
        with masks.drawn(device):
            return forward(*args, **kwargs)

    model.forward = masked
