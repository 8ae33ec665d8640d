"""BitFit: train only the biases.

    y = W x + b

Trains every b of the base model, those of LayerNorms and embeddings too: 102,144 weights (0.1 %) in RoBERTa-base.

Paper: Ben Zaken et al. 2022, https://arxiv.org/abs/2106.10199. Learning rates: 1e-4 to 4e-3.

Limits: biases change in place, so it cannot be switched off or share its base in memory. Families without biases, such as
Llama and T5, have nothing to train.
"""

from typing import ClassVar

from lora_bench.documents import Strict
from lora_bench.errors import UnsupportedPair
from lora_bench.methods.contract import Adapted, Pretrained, register


@register
class BitFit(Strict):
    """BitFit on every bias of the base model."""

    name: ClassVar[str] = "bitfit"
    size: ClassVar[str | None] = None
    learning_rate: ClassVar[float] = 1e-3
    packed_options: ClassVar[tuple[str, ...]] = ()

    def apply(self, model: Pretrained, *, head: list[str]) -> Adapted:
        """Return *model* with only the biases and the head trainable; refuse one without biases outside its head."""
        from peft import get_peft_model

        from lora_bench.tuners import SelectedConfig

        # DeBERTa v1 calls those of its queries and values q_bias and v_bias.
        config = SelectedConfig(weights=r".*\b(?:[qv]_)?bias", modules_to_save=head)
        if not any(config.chosen(name) for name, _ in model.named_parameters()):
            raise UnsupportedPair(f"{type(model).__name__} has no biases outside of its head")
        return get_peft_model(model, config)
