"""Bottleneck adapters: add two small layers with a non-linearity between them inside every block.

    f(x) = scaling * (W_up g(W_down x + b_down) + b_up)

W_down has shape (bottleneck_size, width), W_up (width, bottleneck_size). W_up starts at zero, so training starts from the base
model. The variant places f, and gives L layers of width d with bottleneck_size b these weights:

- `houlsby`: 2L(2db + b + d). y + f(y) after attention and after the feed-forward block, before their residuals. Houlsby et al.
  2019, https://arxiv.org/abs/1902.00751, with gelu; later comparisons use silu.
- `pfeiffer`: L(2db + b + d). After the feed-forward block only; in encoders and BART f reads LayerNorm(y + residual). Pfeiffer
  et al. 2020, https://arxiv.org/abs/2005.00052, with relu.
- `parallel`: L(2db + b + d). f reads the feed-forward block's input and adds to its output. He et al. 2021,
  https://arxiv.org/abs/2110.04366, with relu and a scaling of 4.
- `lin`: L(2db + b + 3d). y + f(LayerNorm(y)) after the layer, LayerNorm trained. Lin et al. 2020,
  https://arxiv.org/abs/2004.03829, with relu; AdapterL of the LoRA paper.

Learning rates: 3e-4 to 3e-3, 1e-3 to 1e-2 for small models. Sizes: 8 to 256.

Where LayerNorm comes before a block (GPT-2, Llama, T5), two variants differ by design from AdapterHub's `adapters`, which hands
an adapter the residual stream h. `pfeiffer` adds f(y) to the block's output y alone; `parallel` reads LayerNorm(h), the input
of the weights beside it, whose scale does not grow with depth. He et al.'s code reads h there; in encoders, where LayerNorm
comes after a block, both are one.

Limits: it cannot be merged and adds latency. The base model's LayerNorms stay frozen, as in the LoRA paper's comparisons. No
variant stands behind a decoder's attention to an encoder.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from lora_bench.methods.contract import OfConfig, Preset, SearchedRates, register

Layer = Annotated[int, Field(strict=True, ge=0)]


def _in_order(layers: tuple[int, ...]) -> tuple[int, ...]:
    """Return the layers sorted and without repeats, so that two spellings are one method."""
    return tuple(sorted(set(layers)))


@register
class BottleneckAdapter(OfConfig):
    """Bottleneck adapters in every block.

    Args:
        bottleneck_size: Width of the bottleneck, at least 1.
        variant: Place of f, as above.
        non_linearity: Function g: `relu`, `gelu`, `silu` or `tanh`.
        scaling: Factor on the adapter's output, above 0.
        initialisation: `identity` starts as the base model, `paper` near it, with both matrices drawn as in the variant's
            paper.
        skip_layers: Layers without an adapter, counted from 0.

    `apply` raises UnsupportedPair if the model's family has no such variant, or *skip_layers* leaves no layer or names one too
    many.
    """

    name: ClassVar[str] = "bottleneck_adapter"
    size: ClassVar[str | None] = "bottleneck_size"
    learning_rate: ClassVar[float] = 1e-3
    searched_rates: ClassVar[SearchedRates] = {
        256: (6e-3, 2e-3, 1e-2),
        384: (4e-3, 2e-3, 8e-3),
        768: (2e-3, 2e-3, 2e-3),
    }
    packed_options: ClassVar[tuple[str, ...]] = ("bottleneck_size",)
    peft_types: ClassVar[tuple[str, ...]] = ("BOTTLENECK_ADAPTER",)
    presets: ClassVar[dict[str, Preset]] = {
        "adapter_both": Preset(
            "after both blocks, of width 64: Houlsby et al. 2019, https://arxiv.org/abs/1902.00751",
            {"variant": "houlsby", "bottleneck_size": 64},
            first_rates=(("5e-4", "1e-3", "2e-4"), ("5e-4", "1e-3", "2e-4")),
        ),
        "adapter_ffn": Preset(
            "after the feed-forward block alone, a sixteenth of 768 wide, as by default in AdapterHub: Pfeiffer et al. 2020, "
            "https://arxiv.org/abs/2005.00052",
            {"variant": "pfeiffer", "bottleneck_size": 48, "non_linearity": "relu"},
        ),
    }

    bottleneck_size: int = Field(default=16, ge=1)
    variant: Literal["houlsby", "pfeiffer", "parallel", "lin"] = "houlsby"
    non_linearity: Literal["relu", "gelu", "silu", "tanh"] = "gelu"
    scaling: float = Field(default=1.0, gt=0)
    initialisation: Literal["identity", "paper"] = "identity"
    # Not strict: a record's JSON gives a list.
    skip_layers: Annotated[tuple[Layer, ...], AfterValidator(_in_order)] = Field(default=(), strict=False)
