"""Bottleneck adapters: two small layers with a non-linearity between them, added inside every block.

    f(x) = scaling * (W_up g(W_down x + b_down) + b_up)

with W_down of shape (bottleneck_size, width) and W_up of shape (width, bottleneck_size). W_up starts at zero, so the
adapted model starts as the base model. Where f is added is the variant:

| variant    | what it computes                                                                 | weights in L layers |
| ---------- | -------------------------------------------------------------------------------- | ------------------- |
| `houlsby`  | y + f(y) after attention and after the feed-forward block, before their residuals | 2 L (2 d b + b + d) |
| `pfeiffer` | after the feed-forward block only; in encoders f reads LayerNorm(y + residual)   | L (2 d b + b + d)   |
| `parallel` | f reads what the feed-forward block reads, and is added to its output            | L (2 d b + b + d)   |
| `lin`      | y + f(LayerNorm(y)) after the whole layer, the LayerNorm trained                 | L (2 d b + b + 3 d) |

with d the width and b the bottleneck_size.

Houlsby et al. 2019, https://arxiv.org/abs/1902.00751; Pfeiffer et al. 2020, https://arxiv.org/abs/2005.00052; He et al.
2021, https://arxiv.org/abs/2110.04366; Lin et al. 2020, https://arxiv.org/abs/2004.03829 (AdapterL of the LoRA paper).

Suggested values: a learning rate of 3e-4 to 3e-3. `pfeiffer`, `parallel` and `lin` are published with relu, `parallel`
with a scaling of 4; `houlsby` with gelu, in later comparisons with silu.

What it cannot do: be merged into the base weights, since it is not linear; it adds latency. LayerNorms of the base model
stay frozen in every variant, as in the comparisons of the LoRA paper.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

from lora_bench.documents import Strict
from lora_bench.methods.base import register

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


Layer = Annotated[int, Field(strict=True, ge=0)]


def _in_order(layers: tuple[int, ...]) -> tuple[int, ...]:
    """The same layers once each, from the first to the last, so that two ways of writing them are one method."""
    return tuple(sorted(set(layers)))


@register
class BottleneckAdapter(Strict):
    """Bottleneck adapters in every block.

    Args:
        bottleneck_size: Width of the bottleneck, at least 1.
        variant: Where the adapters lie: `houlsby`, `pfeiffer`, `parallel` or `lin`.
        non_linearity: The function between the two layers.
        scaling: Factor on what the adapter adds.
        initialisation: `identity` to start as the base model; `paper` to draw both matrices as the variant's paper does,
            which starts near it.
        skip_layers: Layers that get no adapter, counted from 0.
    """

    name: ClassVar[str] = "bottleneck_adapter"
    size: ClassVar[str | None] = "bottleneck_size"
    learning_rate: ClassVar[float] = 1e-3

    bottleneck_size: int = Field(default=16, ge=1)
    variant: Literal["houlsby", "pfeiffer", "parallel", "lin"] = "houlsby"
    non_linearity: Literal["relu", "gelu", "silu", "tanh"] = "gelu"
    scaling: float = Field(default=1.0, gt=0)
    initialisation: Literal["identity", "paper"] = "identity"
    # Not strict: a record's JSON gives a list.
    skip_layers: Annotated[tuple[Layer, ...], AfterValidator(_in_order)] = Field(default=(), strict=False)

    def apply(self, model: PreTrainedModel, *, head: list[str]) -> nn.Module:
        """Return *model* with only the adapters and the head trainable."""
        from peft import get_peft_model

        from lora_bench.tuners import BottleneckConfig

        options: dict[str, Any] = self.model_dump(mode="json")
        return get_peft_model(model, BottleneckConfig(**options, modules_to_save=head))
