"""QLoRA: LoRA beside frozen weights in 4 bits (`methods: [qlora]`). It needs bitsandbytes, and CUDA or a CPU.

    y = dequantised(W) x + scaling * B A x

Every linear weight W in the base model's layers is kept as NF4: half a byte, and a byte of scale for 64 weights. A and B are
those of `lora`, in floating point. `lora-bench plan --device T4` and probes count these bytes. A step makes each W anew,
forward and backward, so it takes less memory than `lora` and more time.

Paper: Dettmers et al. 2023, https://arxiv.org/abs/2305.14314; it adapts all linear weights. Learning rates: 1e-4 to 3e-3.
Sizes: 1 to 64.

Limits: bitsandbytes comes with the extra `lora_bench[qlora]`. Embeddings, norms, biases and the head are not packed. Widths
must be multiples of 64; `parallelism: fsdp` is not tested. Some CPUs answer in bfloat16. The lines of a kept adapter's card
load it on the base in floating point, which answers nearly the same. For the base that it was trained on, pass
`quantization_config=BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)`.
"""

from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field

from lora_bench.documents import Strict
from lora_bench.families import Role, roles_in_order
from lora_bench.methods.contract import Adapted, Pretrained, register
from lora_bench.methods.lora import Lora


@register
class QLora(Strict):
    """LoRA on a base whose layers are kept in four bits.

    Args:
        rank: Rows of A and columns of B, at least 1.
        scaling: Factor on the update, as in `lora`.
        dropout: Probability of zeroing an input of A, in [0, 1).
        targets: Roles, as in `lora`.
    """

    name: ClassVar[str] = "qlora"
    size: ClassVar[str | None] = "rank"
    learning_rate: ClassVar[float] = 1e-3
    # It rewrites the base, so none is kept for the next run.
    trains_base: ClassVar[bool] = True

    rank: int = Field(default=8, ge=1)
    scaling: float = Field(default=2.0, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    # Not strict: a record's JSON gives a list.
    targets: Annotated[tuple[Role, ...], AfterValidator(roles_in_order)] = Field(
        default=("all",), min_length=1, strict=False
    )

    def apply(self, model: Pretrained, *, head: list[str]) -> Adapted:
        """Return *model* with its layers in four bits, and only the LoRA weights and the head trainable.

        Raise UnsupportedPair if bitsandbytes is not installed or does not fit the model, or `lora` does not.
        """
        from lora_bench.tuners.four_bit import pack_layers

        pack_layers(model, head)
        lora = Lora(rank=self.rank, scaling=self.scaling, dropout=self.dropout, targets=self.targets)
        return lora.apply(model, head=head)
