"""Prefix-layer tuning: trained activations of virtual tokens at the input of every layer.

    attention(q, [W_k A; K], [W_v A; V])

with A of shape (num_virtual_tokens, width) in every layer and W_k and W_v the layer's own frozen projections: L P d
weights for L layers of width d and P tokens, half of prefix tuning's. Where a LayerNorm stands before attention (GPT-2),
A goes through it too. The real tokens keep their positions.

PreLayer of the LoRA paper: Hu et al. 2021, https://arxiv.org/abs/2106.09685, section 5.1

Suggested values: a learning rate of 1e-3 to 3e-2; it needs more steps than LoRA or adapters.

What it cannot do: start as the base model exactly, or be merged. The paper's infix tokens, which stand between a prompt
and its completion, are not here: a causal model is not told where its prompt ends, the last token of a text, which its
classifier reads, stands before them and does not see them, and in an encoder they would be prefix tokens under another name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from lora_bench.documents import Strict
from lora_bench.methods.base import register

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


@register
class PrefixLayer(Strict):
    """Trained activations of virtual tokens in every layer.

    Args:
        num_virtual_tokens: How many tokens there are, at least 1.
        init_std: Standard deviation of the normal distribution that the activations start from.
    """

    name: ClassVar[str] = "prefix_layer"
    size: ClassVar[str | None] = "num_virtual_tokens"
    learning_rate: ClassVar[float] = 1e-2

    num_virtual_tokens: int = Field(default=16, ge=1)
    init_std: float = Field(default=0.02, ge=0)

    def apply(self, model: PreTrainedModel, *, head: list[str]) -> nn.Module:
        """Return *model* with only the activations and the head trainable."""
        from peft import get_peft_model

        from lora_bench.tuners import PrefixActivationConfig

        return get_peft_model(model, PrefixActivationConfig(**self.model_dump(), modules_to_save=head))
