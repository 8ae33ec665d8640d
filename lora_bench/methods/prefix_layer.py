"""Prefix-layer tuning: train activations of virtual tokens at the input of every layer.

    attention(q, [W_k A; K], [W_v A; V])

Each layer has an A of shape (num_virtual_tokens, width) and its own frozen projections W_k and W_v: L P d weights in L layers
of width d with P tokens, half of prefix tuning's. A LayerNorm before attention (GPT-2, Llama) applies to A too. Real tokens
keep their positions.

Paper: PreLayer of Hu et al. 2021, https://arxiv.org/abs/2106.09685, section 5.1. Learning rates: 1e-3 to 3e-2; needs more steps
than LoRA or adapters. Sizes: 8 to 200.

Limits: it cannot be merged and does not start exactly from the base model. The paper's infix tokens, between prompt and
completion, are left out: no token of a classifier could see them, and a model that writes is not told where its prompt ends.
"""

from typing import ClassVar

from pydantic import Field

from lora_bench.methods.contract import OfConfig, register


@register
class PreLayer(OfConfig):
    """Trained activations of virtual tokens in every layer.

    Args:
        num_virtual_tokens: Number of tokens, at least 1.
        init_std: Standard deviation of the normal initial activations.

    `apply` raises UnsupportedPair if no prefix is written for the model's attention.
    """

    name: ClassVar[str] = "prefix_layer"
    size: ClassVar[str | None] = "num_virtual_tokens"
    learning_rate: ClassVar[float] = 1e-2
    peft_types: ClassVar[tuple[str, ...]] = ("LORA_BENCH_PREFIX_LAYER",)

    num_virtual_tokens: int = Field(default=16, ge=1)
    init_std: float = Field(default=0.02, ge=0)
