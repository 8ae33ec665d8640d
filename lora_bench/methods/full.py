"""Full fine-tuning: train every weight, or every weight of the top layers.

It is exempt from the parameter budget, marked so in reports, and held to every other axis. *top_layers* trains the last layers
and the head, as in the LoRA paper's FT-Top2 (25,192,448 weights in GPT-2 medium).

Learning rates: 1e-5 to 1e-4 for base-size models, 3e-5 to 1e-3 for small ones.

Limits: runs cannot share a base. A result is stored as a whole model, or as the trained layers.
"""

import re
from typing import ClassVar

from pydantic import Field

from lora_bench.documents import Strict
from lora_bench.errors import UnsupportedPair
from lora_bench.methods.contract import Adapted, FirstRates, Preset, Pretrained, SearchedRates, register


@register
class Full(Strict):
    """Full fine-tuning.

    Args:
        top_layers: Number of layers to train, counted from the head; None for the whole model.
    """

    name: ClassVar[str] = "full"
    size: ClassVar[str | None] = None
    learning_rate: ClassVar[float] = 5e-5
    trains_base: ClassVar[bool] = True
    first_rates: ClassVar[FirstRates] = ("5e-5", "1e-4", "2e-5"), ("3e-5", "1e-5", "1e-4")
    searched_rates: ClassVar[SearchedRates] = {
        256: (7.5e-4, 5e-4, 1e-3),
        384: (2e-4, 1e-5, 4e-4),
        768: (2e-5, 2e-5, 2e-5),
    }
    presets: ClassVar[dict[str, Preset]] = {
        "top2": Preset(
            "the last two layers: FT-Top2 of Hu et al. 2021, table 3, https://arxiv.org/abs/2106.09685",
            {"top_layers": 2},
        )
    }

    top_layers: int | None = Field(default=None, ge=1)

    def apply(self, model: Pretrained, *, head: list[str]) -> Adapted:
        """Return *model* with every weight trainable, or only those of the top layers and the head.

        Raise UnsupportedPair if a weight is quantised, or the model has fewer layers than *top_layers*.
        """
        if self.top_layers is not None:
            return _top_layers(model, head, self.top_layers)
        for weight in model.parameters():
            if not weight.is_floating_point():
                raise UnsupportedPair(
                    "full fine-tuning needs weights in floating point, and some of this model are not"
                )
            weight.requires_grad_(True)
        return model


def _top_layers(model: Pretrained, head: list[str], count: int) -> Adapted:
    from peft import get_peft_model

    from lora_bench.tuners import SelectedConfig
    from lora_bench.tuners.inferred_family import family_of_model

    layer = family_of_model(model).layer
    paths = [path for path, _ in model.named_modules() if re.fullmatch(layer, path)]
    if count > len(paths):
        raise UnsupportedPair(f"top_layers must be at most {len(paths)}, the layers of the model, got {count}")
    top = "|".join(re.escape(path) for path in paths[-count:])
    return get_peft_model(model, SelectedConfig(weights=rf"(?:{top})\..*", modules_to_save=head))
