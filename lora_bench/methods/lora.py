"""LoRA: a low-rank update learned beside frozen weights.

    y = W x + scaling * B A x

with A of shape (rank, in_features) and B of shape (out_features, rank). B starts at zero, so the adapted model starts as
the base model. Adapted are the attention's query and value weights; GPT-2 keeps query, key and value in one weight
(`c_attn`), which is adapted as a whole with one A.

Hu et al. 2021, https://arxiv.org/abs/2106.09685

Suggested values: scaling 2, a learning rate of 3e-4 to 3e-3, the larger for smaller models.

What it cannot do: once merged into the base weights, serve several tasks in one batch.
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
class Lora(Strict):
    """LoRA on the attention query and value weights.

    Args:
        rank: Rows of A and columns of B, at least 1.
        scaling: Factor on the update. Kept apart from *rank*, so that fitting a budget changes the number of parameters
            and not the strength of the update (PEFT's `lora_alpha / r`).
        dropout: Probability of zeroing an input of A, in [0, 1).
    """

    name: ClassVar[str] = "lora"
    size: ClassVar[str | None] = "rank"
    learning_rate: ClassVar[float] = 1e-3

    rank: int = Field(default=8, ge=1)
    scaling: float = Field(default=2.0, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)

    def apply(self, model: PreTrainedModel, *, head: list[str]) -> nn.Module:
        """Return *model* with only the LoRA weights and the head trainable."""
        from peft import LoraConfig, get_peft_model
        from transformers.pytorch_utils import Conv1D

        from lora_bench.families import family_of

        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.scaling * self.rank,
            lora_dropout=self.dropout,
            target_modules=family_of(model.config.model_type).targets("query", "value"),
            # GPT-2's Conv1D keeps its weight as (in_features, out_features).
            fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
            modules_to_save=head,
        )
        return get_peft_model(model, config)
