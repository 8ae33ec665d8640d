"""VeRA: two trained vectors around frozen random matrices that all layers share.

    y = W x + b * (B (d * (A x)))

with A of shape (rank, in_features) and B of shape (out_features, rank) random, and d and b trained.

Kopiczko et al. 2024, https://arxiv.org/abs/2310.11454
"""

from typing import ClassVar

from pydantic import Field

from lora_bench.documents import Strict
from lora_bench.methods import register


@register
class Vera(Strict):
    """VeRA on queries and values."""

    name: ClassVar[str] = "vera"
    size: ClassVar[str | None] = "rank"
    learning_rate: ClassVar[float] = 1e-2

    rank: int = Field(default=64, ge=1)

    def apply(self, model, *, head):
        """Return *model* with only VeRA's vectors and the head trainable."""
        from peft import VeraConfig, get_peft_model

        from lora_bench.families import family_of

        family = family_of(model.config.model_type)
        targets = family.targets("query", "value")
        config = VeraConfig(
            r=self.rank, target_modules=targets, fan_in_fan_out=family.name == "gpt2", modules_to_save=head
        )
        return get_peft_model(model, config)
