"""LoRA: a low-rank update learned beside frozen weights.

    y = W x + scaling * B A x

with A of shape (rank, in_features) and B of shape (out_features, rank), for each adapted weight. B starts at zero, so
the adapted model starts as the base model; PiSSA and OLoRA start from W itself and take B A out of it, to the same end.
What is adapted is named by role, which means the same in every family; the paper adapts query and value. GPT-2 and
DeBERTa v1 keep query, key and value in one weight: there each adapted slice of it has an A and a B of its own, as in the
paper, where PEFT's LoRA would adapt all three with one A. For L layers of width d, query and value are 4 L d rank weights
in every family.

Hu et al. 2021, https://arxiv.org/abs/2106.09685; rsLoRA: Kalajdzievski 2023, https://arxiv.org/abs/2312.03732; DoRA:
Liu et al. 2024, https://arxiv.org/abs/2402.09353, which learns the length of each row of the weight too; PiSSA: Meng et
al. 2024, https://arxiv.org/abs/2404.02948; OLoRA: Büyükakyüz 2024, https://arxiv.org/abs/2406.01775.

Suggested values: scaling 2, a learning rate of 3e-4 to 3e-3, the larger for smaller models.

What it cannot do: once merged into the base weights, serve several tasks in one batch. PiSSA and OLoRA are not written for
query, key and value in one weight, and change the base in memory: what is saved goes on the base as it was published, out
of which loading takes the same B A again; `merge_and_unload` gives the trained model, but `unload`, `disable_adapter` and
any second adapter get the changed base.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

from lora_bench.documents import Strict
from lora_bench.errors import UnsupportedPair
from lora_bench.families import Role, parts_of, roles_in_order
from lora_bench.methods.base import register

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


@register
class Lora(Strict):
    """LoRA on weights named by their role.

    Args:
        rank: Rows of A and columns of B, at least 1.
        scaling: Factor on the update. Kept apart from *rank*, so that fitting a budget changes the number of parameters
            and not the strength of the update (PEFT's `lora_alpha / r`).
        dropout: Probability of zeroing an input of A, in [0, 1).
        targets: What is adapted: `query`, `key`, `value`, `output` (the projection at the end of attention), `ffn`
            (both projections of the feed-forward block), or `all` of these.
        use_rslora: Divide *scaling* by the square root of *rank*; it is then the alpha of rsLoRA.
        use_dora: Learn the length of each adapted row of the weight apart from its direction.
        initialisation: What A and B start from: `kaiming` or `gaussian` random numbers in A and zeros in B, `pissa` (the
            largest singular vectors of W) or `olora` (the first vectors of its QR decomposition).
    """

    name: ClassVar[str] = "lora"
    size: ClassVar[str | None] = "rank"
    learning_rate: ClassVar[float] = 1e-3

    rank: int = Field(default=8, ge=1)
    scaling: float = Field(default=2.0, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    # Not strict: a record's JSON gives a list.
    targets: Annotated[tuple[Role, ...], AfterValidator(roles_in_order)] = Field(
        default=("query", "value"), min_length=1, strict=False
    )
    use_rslora: bool = False
    use_dora: bool = False
    initialisation: Literal["kaiming", "gaussian", "pissa", "olora"] = "kaiming"

    def apply(self, model: PreTrainedModel, *, head: list[str]) -> nn.Module:
        """Return *model* with only the LoRA weights and the head trainable."""
        from peft import LoraConfig, get_peft_model
        from transformers.pytorch_utils import Conv1D

        from lora_bench.families import family_of

        family = family_of(model.config.model_type)
        parts = parts_of(self.targets)
        options: dict[str, Any] = {
            "r": self.rank,
            "lora_alpha": self.scaling if self.use_rslora else self.scaling * self.rank,
            "lora_dropout": self.dropout,
            "use_rslora": self.use_rslora,
            "use_dora": self.use_dora,
            "modules_to_save": head,
        }
        if family.fused and {"query", "key", "value"} & set(parts):
            from lora_bench.tuners import FusedLoraConfig

            if self.initialisation not in ("kaiming", "gaussian"):
                raise UnsupportedPair(
                    f"{self.initialisation} is not written for query, key and value in one weight, as {family.name} has them"
                )
            fused = FusedLoraConfig(**options, roles=list(self.targets), initialisation=self.initialisation)
            return get_peft_model(model, fused)
        transposed = any(isinstance(module, Conv1D) for module in model.modules())
        if self.initialisation == "olora" and transposed:
            raise UnsupportedPair("PEFT's olora takes each weight as (out_features, in_features), and Conv1D is not")
        from_weights = self.initialisation in ("pissa", "olora")
        if from_weights and not all(weight.is_floating_point() for weight in model.parameters()):
            raise UnsupportedPair(
                f"{self.initialisation} starts from weights in floating point, and some here are quantised"
            )
        # On the meta device there are no weights to start from, and counting needs none.
        from_weights = from_weights and model.device.type != "meta"
        config = LoraConfig(
            **options,
            init_lora_weights=self.initialisation if from_weights or self.initialisation == "gaussian" else True,
            target_modules=family.targets(*parts),
            # GPT-2's Conv1D keeps its weight as (in_features, out_features).
            fan_in_fan_out=transposed,
        )
        adapted: nn.Module = get_peft_model(model, config)
        ranks = [len(weight) for path, weight in adapted.named_parameters() if ".lora_A." in path]
        if min(ranks) < self.rank:
            raise UnsupportedPair(
                f"{self.initialisation} finds {min(ranks)} vectors in a weight, fewer than rank {self.rank}"
            )
        return adapted
