"""Prefix-embedding tuning: train embeddings of virtual tokens in front of the text.

    layers([E; x]), on GPT-2 layers([E; x; I])

E has shape (num_virtual_tokens, width) and I (num_infix_tokens, width); x is the embedded text. P prefix and Q infix tokens of
width d have (P + Q) d weights. Virtual tokens pass every layer and are dropped at the end. The text keeps its positions. With
infix tokens, GPT-2's head reads the last of them in place of the last token of the text.

Paper: PreEmbed of Hu et al. 2021, https://arxiv.org/abs/2106.09685, section 5.1. Learning rates: 1e-3 to 3e-2; needs more steps
than LoRA or adapters. Sizes: 8 to 200.

Limits: encoders, and classifiers of GPT-2 (for text generation use PEFT's PROMPT_TUNING through `peft`). It cannot be merged,
does not start exactly from the base model, and costs the time of P + Q more tokens. Infix tokens are for GPT-2: in an encoder
they would be prefix tokens.
"""

from typing import ClassVar

from pydantic import Field

from lora_bench.methods.contract import OfConfig, register


@register
class PrefixEmbedding(OfConfig):
    """Trained embeddings of virtual tokens in front of the text.

    Args:
        num_virtual_tokens: Number of tokens, at least 1.
        init_std: Standard deviation of the normal initial embeddings.
        num_infix_tokens: Number of tokens behind the text of a causal model.

    `apply` raises UnsupportedPair if the model writes text, its layers are not called as one module, or an encoder is to have
    infix tokens.
    """

    name: ClassVar[str] = "prefix_embedding"
    size: ClassVar[str | None] = "num_virtual_tokens"
    learning_rate: ClassVar[float] = 1e-2
    peft_types: ClassVar[tuple[str, ...]] = ("LORA_BENCH_PREFIX_EMBEDDING",)

    num_virtual_tokens: int = Field(default=16, ge=1)
    init_std: float = Field(default=0.02, ge=0)
    num_infix_tokens: int = Field(default=0, ge=0)
