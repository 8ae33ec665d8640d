"""Prefix-embedding tuning: trained embeddings of virtual tokens in front of the text.

    layers([E; x])

with E of shape (num_virtual_tokens, width) and x the embedded text: P d weights for P tokens of width d, the smallest of
the prefix methods. The virtual tokens go through every layer and are dropped at the end; the text keeps its positions,
and the head reads the token it always reads.

PreEmbed of the LoRA paper: Hu et al. 2021, https://arxiv.org/abs/2106.09685, section 5.1

Suggested values: a learning rate of 1e-3 to 3e-2; it needs more steps than LoRA or adapters.

What it cannot do: act on a decoder (PEFT's PROMPT_TUNING does for text generation, through the method `peft`), start as
the base model exactly, or be merged. A text and its virtual tokens together cost the time of a longer text. The paper's
infix tokens, which stand behind the text, are not here: an encoder sees both ways and virtual tokens have no positions, so
they would be prefix tokens under another name (in DeBERTa ones at other distances).
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
class PrefixEmbedding(Strict):
    """Trained embeddings of virtual tokens in front of the text of an encoder.

    Args:
        num_virtual_tokens: How many tokens there are, at least 1.
        init_std: Standard deviation of the normal distribution that the embeddings start from.
    """

    name: ClassVar[str] = "prefix_embedding"
    size: ClassVar[str | None] = "num_virtual_tokens"
    learning_rate: ClassVar[float] = 1e-2

    num_virtual_tokens: int = Field(default=16, ge=1)
    init_std: float = Field(default=0.02, ge=0)

    def apply(self, model: PreTrainedModel, *, head: list[str]) -> nn.Module:
        """Return *model* with only the embeddings and the head trainable."""
        from peft import get_peft_model

        from lora_bench.tuners import PrefixEmbeddingConfig

        return get_peft_model(model, PrefixEmbeddingConfig(**self.model_dump(), modules_to_save=head))
