"""Diagonal LoRA: LoRA with a trained vector between its factors.

    y = W x + B (d * (A x))

with A of shape (rank, in_features), B of shape (out_features, rank), and d of length rank.
"""

from typing import ClassVar

from pydantic import Field

from lora_bench.documents import Strict
from lora_bench.methods import register


@register
class DiagLora(Strict):
    """Diagonal LoRA on queries and values."""

    name: ClassVar[str] = "diag_lora"
    size: ClassVar[str | None] = "rank"
    learning_rate: ClassVar[float] = 1e-3
    tuner: ClassVar[str] = "diag_tuner"

    rank: int = Field(default=8, ge=1)

    def apply(self, model, *, head):
        """Return *model* with only diagonal LoRA's weights and the head trainable."""
        from diag_tuner import DiagConfig
        from peft import get_peft_model

        return get_peft_model(model, DiagConfig(r=self.rank, modules_to_save=head))
