"""Linear probe: train only the head, on features of the frozen base model.

    y = head(h),  h = base(x)

Trains the head and nothing else. The features h of each row are computed once in a run, alone and without padding, so later
epochs cost the head alone. Answers are those of a head trained under the frozen model, up to rounding.

Alain and Bengio 2016, https://arxiv.org/abs/1610.01644; as a first step before fine-tuning Kumar et al. 2022,
https://arxiv.org/abs/2202.10054. Learning rates: 1e-3 to 3e-2, as nothing pretrained can be lost.

Limits: dropout inside the base model is off, whatever the recipe says, because features are fixed; the head keeps its own. A
classifier of a text keeps one vector a row in families whose head reads the first token, and else those of all its tokens:
rows × tokens × width floats. `train_flops` counts the frozen model's forward pass at every step. A family whose head contains
layers, as RoBERTa's, trains these too. No model that writes: it has no head.
"""

from typing import ClassVar

from lora_bench.documents import Strict
from lora_bench.errors import UnsupportedPair
from lora_bench.methods.contract import Adapted, FirstRates, Pretrained, register


@register
class LinearProbe(Strict):
    """The head alone, on features of the frozen base model."""

    name: ClassVar[str] = "linear_probe"
    size: ClassVar[str | None] = None
    learning_rate: ClassVar[float] = 3e-3
    first_rates: ClassVar[FirstRates] = ("1e-2", "3e-3", "3e-2"), ("3e-3", "1e-3", "1e-2")

    def apply(self, model: Pretrained, *, head: list[str]) -> Adapted:
        """Return *model* with only the head trainable; refuse one without a head, or with one inside its base."""
        from peft import get_peft_model

        from lora_bench.tuners import SelectedConfig
        from lora_bench.tuners.frozen_features import ComputeOnce

        if not head:
            raise UnsupportedPair(f"{type(model).__name__} has no head to train")
        adapted = get_peft_model(model, SelectedConfig(weights="", modules_to_save=head))
        classifier = adapted.get_base_model()
        classifier.forward = ComputeOnce(classifier)
        return adapted
