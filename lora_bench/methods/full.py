"""Full fine-tuning: every weight is trained.

The reference line of every comparison. It has no size, so a parameter budget cannot hold it: reports mark it as exempt from
that axis, and hold it to all others.

Suggested values: a learning rate of 1e-5 to 5e-5 for base-size encoders, 1e-4 for small ones.

What it cannot do: share its base. Each result is stored as a whole model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from lora_bench.documents import Strict
from lora_bench.methods.base import register

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@register
class Full(Strict):
    """Every weight is trained."""

    name: ClassVar[str] = "full"
    size: ClassVar[str | None] = None
    learning_rate: ClassVar[float] = 5e-5

    def apply(self, model: PreTrainedModel, *, head: list[str]) -> PreTrainedModel:
        """Return *model* with every weight trainable."""
        for weight in model.parameters():
            weight.requires_grad_(True)
        return model
