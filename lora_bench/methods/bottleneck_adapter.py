"""Bottleneck adapters: two small layers with a non-linearity between them, after each sub-layer of a block.

    y = x + scaling * (W_up f(W_down x + b_down) + b_up)

with W_down of shape (bottleneck_size, width) and W_up of shape (width, bottleneck_size). W_up starts at zero, so the
adapted model starts as the base model. In the Houlsby placement x is the output of the attention and of the feed-forward
sub-layer, before the residual is added.

Houlsby et al. 2019, https://arxiv.org/abs/1902.00751

Suggested values: a learning rate of 3e-4 to 3e-3.

What it cannot do: be merged into the base weights, since it is not linear; it adds latency.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from lora_bench.documents import Strict
from lora_bench.methods.base import register

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


@register
class BottleneckAdapter(Strict):
    """Bottleneck adapters in every block.

    Args:
        bottleneck_size: Width of the bottleneck, at least 1.
        variant: Where the adapters lie.
        non_linearity: The function between the two layers.
        scaling: Factor on what the adapter adds.
    """

    name: ClassVar[str] = "bottleneck_adapter"
    size: ClassVar[str | None] = "bottleneck_size"
    learning_rate: ClassVar[float] = 1e-3

    bottleneck_size: int = Field(default=16, ge=1)
    variant: Literal["houlsby"] = "houlsby"
    non_linearity: Literal["relu", "gelu", "silu", "tanh"] = "gelu"
    scaling: float = Field(default=1.0, gt=0)

    def apply(self, model: PreTrainedModel, *, head: list[str]) -> nn.Module:
        """Return *model* with only the adapters and the head trainable."""
        from peft import get_peft_model

        from lora_bench.tuners import BottleneckConfig

        return get_peft_model(model, BottleneckConfig(**self.model_dump(), modules_to_save=head))
