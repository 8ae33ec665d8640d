"""The loss of a model that writes, from logits of some tokens at a time: with a long vocabulary all of them are a step's peak.

A chunk's logits are computed anew in the backward pass. The sum over chunks differs from transformers' loss by rounding alone.
torch's `linear_cross_entropy` is not used: in bfloat16 it gives the loss in bfloat16, three digits.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from lora_bench.families import declared_family
from lora_bench.models.base_precision import ANEW
from lora_bench.tuners.trial import inside_peft

# Logits of a step, a GiB in float32, from which they are computed in chunks, and logits of a chunk.
LEAST, CHUNK = 2**28, 2**25


def tokens_in_chunks(model: nn.Module, least: int = LEAST) -> int | None:
    """Return the tokens from which `chunk_loss` computes a model's loss in chunks; None if it never does."""
    inner: Any = inside_peft(model)
    family = declared_family(inner.config.model_type)
    plain = family is not None and family.causal and getattr(inner.config, "final_logit_softcapping", None) is None
    return -(-least // inner.config.vocab_size) if plain and inner.get_output_embeddings() is not None else None


def chunk_loss(model: nn.Module, tokens: int, *, least: int = LEAST) -> bool:
    """Make a writing model compute its loss in chunks, in place; return False if its logits are few, or its loss not plain."""
    first = tokens_in_chunks(model, least)
    if first is None or tokens < first:
        return False
    inner: Any = inside_peft(model)
    output = inner.get_output_embeddings()
    whole, usual = output.forward, inner.loss_function
    rows = max(1, CHUNK * least // LEAST // inner.config.vocab_size)

    def missed(hidden: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(whole(hidden).float(), labels, reduction="sum")

    def loss(logits: Tensor, labels: Tensor, *args: Any, **kwargs: Any) -> Any:
        if not (inner.training and torch.is_grad_enabled()):
            return usual(logits, labels, *args, **kwargs)
        hidden, wanted = logits.flatten(0, 1), F.pad(labels[..., 1:], (0, 1), value=-100).flatten()
        parts = zip(hidden.split(rows), wanted.split(rows), strict=True)
        return torch.stack([checkpoint(missed, *part, **ANEW) for part in parts]).sum() / (wanted != -100).sum()

    # In training the model gives the loss what its last layer leaves, in place of logits.
    output.forward = lambda hidden: hidden if inner.training and torch.is_grad_enabled() else whole(hidden)
    inner.loss_function = loss
    return True
