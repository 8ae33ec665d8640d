"""Count the examples and tokens that a model is trained on, at the model itself.

A hook before the model's forward pass sees each batch, whatever collator, sampler, packing or accumulation made it. It works in
every process of a distributed run, and in no worker that loads data. It adds on the device and reads nothing back, so the host
never waits. The Trainer's own count (`include_num_input_tokens_seen`) gathers over processes and waits for the device in every
step.
"""

from typing import Any

import torch
from torch import Tensor, nn

from lora_bench.errors import typed_line


class TokenCounter:
    """Counts examples and real tokens of training: rows of `input_ids`, and ones of `attention_mask`.

    Without a mask of shape (examples, tokens) every position is a real token, because the model treats it as one, as in
    sequences packed without padding. If the examples of a batch are flattened into one row, with restarting positions, their
    number is unknown. Of an encoder-decoder the encoder's tokens count. Passes without gradients (evaluation, generation, a
    reference model) are no training and do not count. *fault* is the reason why a batch could not be counted, so that the
    counts are unknown; or None.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self._examples = self._unmasked = 0
        self._masked = torch.zeros((), dtype=torch.int64, device=device)
        self._has_tokens = self._has_rows = True
        self.fault: str | None = None
        self.start(model)

    def start(self, model: nn.Module) -> None:
        """Add the hook to the model."""
        self._handle = model.register_forward_pre_hook(self._add, with_kwargs=True)

    @torch.compiler.disable  # a compiled model calls it uncompiled, outside of its graph
    def _add(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not (module.training and torch.is_grad_enabled()):
            return
        try:
            self._count(args, kwargs)
        except Exception as error:  # a batch of another kind, which trains all the same
            self._has_tokens = self._has_rows = False
            self.fault = self.fault or typed_line(error)

    def _count(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids, mask = kwargs.get("input_ids", args[0] if args else None), kwargs.get("attention_mask")
        if not isinstance(ids, Tensor):
            self._has_tokens = False
            ids = next((value for value in kwargs.values() if isinstance(value, Tensor) and value.dim()), None)
        if ids is None:
            return
        self._examples += len(ids)
        if isinstance(mask, Tensor) and mask.dim() == 2:
            self._masked = self._masked + mask.sum()
        else:
            self._unmasked += ids.numel()
            self._has_rows &= not (len(ids) == 1 and kwargs.get("position_ids") is not None)

    def now(self) -> Tensor:
        """Return the counts so far: examples, tokens, and for each 0 if it is complete; 64-bit integers of shape (4,)."""
        incomplete = not self._has_rows, not self._has_tokens
        counts = torch.tensor([self._examples, self._unmasked, *incomplete], dtype=torch.int64)
        counts = counts.to(self._masked.device)
        counts[1] += self._masked.to(torch.int64)
        return counts

    def stop(self) -> None:
        """Remove the hook."""
        self._handle.remove()
