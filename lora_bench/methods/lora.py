"""LoRA: learn a low-rank update beside frozen weights.

    y = W x + scaling * B A x

A has shape (rank, in_features), B (out_features, rank). Training starts from the base model: B starts at zero, and PiSSA and
OLoRA take their first B A out of W. The paper adapts query and value: 4 L d rank weights in L layers of width d. Where one
weight computes query, key and value (as in GPT-2 and DeBERTa v1), each adapted slice has its own A and B, as in the paper
but unlike PEFT. A decoder's attention to an encoder is adapted like its self-attention.

Papers: Hu et al. 2021, https://arxiv.org/abs/2106.09685; rsLoRA: Kalajdzievski 2023, https://arxiv.org/abs/2312.03732; DoRA:
Liu et al. 2024, https://arxiv.org/abs/2402.09353; PiSSA: Meng et al. 2024, https://arxiv.org/abs/2404.02948; OLoRA: Büyükakyüz
2024, https://arxiv.org/abs/2406.01775; LoRA+ (`ratio` 16): Hayou et al. 2024, https://arxiv.org/abs/2402.12354. Learning rates:
3e-4 to 3e-3 at scaling 2, 1e-3 to 1e-2 for small models. Sizes: 1 to 64.

Limits: once merged, it cannot serve several tasks in one batch. PiSSA and OLoRA refuse a weight that computes query, key and
value together, and change the base in memory. Load a saved one on the published base: loading takes the same B A out again.
`merge_and_unload` gives the trained model; `unload`, `disable_adapter` and a second adapter get the changed base.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from lora_bench.documents import Strict
from lora_bench.errors import UnsupportedPair
from lora_bench.families import Family, Role, parts_of, roles_in_order
from lora_bench.methods.contract import Adapted, AdapterConfig, Preset, Pretrained, SearchedRates, register

Layer = Annotated[int, Field(ge=0)]
Token = Annotated[int, Field(ge=0)]
Rank = Annotated[int, Field(ge=1)]


def _by_index(pattern: Any) -> Any:
    """Return ranks by layer; a record's JSON has only texts as keys."""
    if not isinstance(pattern, dict):
        return pattern
    return {int(layer) if str(layer).isdecimal() else layer: rank for layer, rank in pattern.items()}


@register
class Lora(Strict):
    """LoRA on weights named by their role.

    Args:
        rank: Rows of A and columns of B, at least 1.
        scaling: Factor on the update, PEFT's `lora_alpha / r`. Fitting *rank* to a budget leaves it unchanged.
        dropout: Probability of zeroing an input of A, in [0, 1).
        targets: Roles, alike in every family: `query`, `key`, `value`, `output` (last projection of attention), `ffn`
            (feed-forward projections), or `all`.
        use_rslora: Divide *scaling*, rsLoRA's alpha, by the square root of *rank*.
        use_dora: Learn the length of each adapted row of the weight apart from its direction.
        initialisation: `kaiming` or `gaussian` (random A, zero B), `pissa` (largest singular vectors of W) or `olora` (first
            vectors of its QR decomposition).
        ratio: Learning rate of B divided by that of A and the head; LoRA+ has 16. The learning rate of a suite is A's.
        rank_pattern: Ranks of layers that have another than *rank*, by their indexes from 0. *scaling* stays the same.
        train_norms: Train the norms of every layer, too.
        train_tokens: Ids of tokens whose rows in the embeddings, and in a language model's output, are trained too: those that
            a chat template brings and the checkpoint has not learned.
    """

    name: ClassVar[str] = "lora"
    size: ClassVar[str | None] = "rank"
    learning_rate: ClassVar[float] = 1e-3
    searched_rates: ClassVar[SearchedRates] = {
        256: (6e-3, 2e-3, 1e-2),
        384: (2e-3, 5e-4, 4e-3),
        768: (1e-3, 1e-3, 1e-3),
    }
    peft_types: ClassVar[tuple[str, ...]] = ("LORA", "LORA_BENCH_FUSED_LORA")
    presets: ClassVar[dict[str, Preset]] = {
        "lora_all": Preset(
            "all linear layers, at alpha 32: Dettmers et al. 2023, https://arxiv.org/abs/2305.14314; Schulman et al. 2025, "
            "https://thinkingmachines.ai/blog/lora",
            {"targets": ("all",), "rank": 16},
            first_rates=(("3e-4", "1e-3", "1e-4"), ("3e-4", "1e-4", "1e-3")),
        ),
        "lora_qv": Preset(
            "queries and values, as the paper's RoBERTa-base on SST-2, rank 8, alpha 8: Hu et al. 2021, table 9, "
            "https://arxiv.org/abs/2106.09685",
            {"targets": ("query", "value"), "scaling": 1.0},
            learning_rate=5e-4,
        ),
        "lora_plus": Preset(
            "rank 8, alpha 16, dropout 0.1 and half of LoRA's rate, as the authors' code and advice, and the paper's ratio: "
            "Hayou et al. 2024, https://arxiv.org/abs/2402.12354, https://github.com/nikhil-ghosh-berkeley/loraplus",
            {"ratio": 16.0, "dropout": 0.1},
            learning_rate=5e-4,
        ),
        "rslora": Preset(
            "all linear layers, at alpha 16 over the root of a high rank: Kalajdzievski 2023, https://arxiv.org/abs/2312.03732",
            {"targets": ("all",), "use_rslora": True, "scaling": 16.0, "rank": 64},
        ),
    }

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
    ratio: float = Field(default=1.0, gt=0)
    rank_pattern: Annotated[dict[Layer, Rank], BeforeValidator(_by_index)] = Field(default_factory=dict)
    train_norms: bool = False
    train_tokens: tuple[Token, ...] = Field(default=(), strict=False)

    @property
    def packed_options(self) -> tuple[str, ...] | None:
        """Options in which runs of a pack may differ; None for a run that no pack may have."""
        # DoRA divides by lengths of rows. Padded ranks leave these alone, but no test shows it, as none does for trained rows
        # of embeddings. The other initialisations change the base.
        packs = not (self.use_dora or self.train_tokens) and self.initialisation in ("kaiming", "gaussian")
        return ("rank", "scaling") if packs else None

    @property
    def alpha(self) -> float:
        """PEFT's `lora_alpha`."""
        return self.scaling if self.use_rslora else self.scaling * self.rank

    @staticmethod
    def options_of(config: Any, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options of an adapter from its PEFT config, and the settings that differ from PEFT's defaults."""
        options = {name: value for name, value in given.items() if name not in ("r", "lora_alpha", "lora_dropout")}
        scaling = config.lora_alpha if config.use_rslora else config.lora_alpha / config.r
        return options | {"rank": config.r, "scaling": float(scaling), "dropout": float(config.lora_dropout)}

    def rate_factor(self, weight: str) -> float:
        """Return the factor on the learning rate of a weight, by its name."""
        return self.ratio if re.search(r"\.(?:fused_)?lora_B\.", weight) else 1.0

    def apply(self, model: Pretrained, *, head: list[str]) -> Adapted:
        """Return *model* with only the LoRA weights and the head trainable.

        Raise UnsupportedPair if the initialisation does not fit the weights (fused, transposed, quantised, or of a lower rank),
        or if the model lacks a layer of *rank_pattern* or a token of *train_tokens*, or has no norms to train.
        """
        from peft import get_peft_model
        from peft.tuners.lora.layer import LoraLayer

        adapted: Adapted = get_peft_model(model, self.config(model, head))
        for module in adapted.modules():
            # PEFT takes as many vectors as a weight has.
            if isinstance(module, LoraLayer) and len(module.lora_A["default"].weight) < module.r["default"]:
                raise UnsupportedPair(
                    f"{self.initialisation} finds {len(module.lora_A['default'].weight)} vectors in a weight, fewer than rank "
                    f"{module.r['default']}"
                )
        return adapted

    def config(self, model: Pretrained, head: Sequence[str] = ()) -> AdapterConfig:
        """Return the config for *model*, with the modules of *head* trained whole; refuse as `apply` does."""
        from peft import LoraConfig
        from transformers.pytorch_utils import Conv1D

        from lora_bench.tuners.inferred_family import family_of_model

        family = family_of_model(model)
        parts = parts_of(self.targets)
        ranks = self._ranks(family, getattr(model.config, family.num_layers_key))
        options: dict[str, Any] = {
            "r": self.rank,
            "rank_pattern": ranks,
            "lora_alpha": self.alpha,
            "lora_dropout": self.dropout,
            "use_rslora": self.use_rslora,
            "use_dora": self.use_dora,
            "modules_to_save": [*head, *(norms_of(model, family) if self.train_norms else [])],
            "trainable_token_indices": rows_of(model, self.train_tokens) if self.train_tokens else None,
        }
        if family.fused and {"query", "key", "value"} & set(parts):
            from lora_bench.tuners import FusedLoraConfig

            if self.initialisation not in ("kaiming", "gaussian"):
                raise UnsupportedPair(
                    f"{self.initialisation} is not written for query, key and value in one weight, as {family.name} has them"
                )
            return FusedLoraConfig(**options, roles=list(self.targets), initialisation=self.initialisation)
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
        return LoraConfig(
            **options,
            alpha_pattern={} if self.use_rslora else {layer: self.scaling * rank for layer, rank in ranks.items()},
            init_lora_weights=self.initialisation if from_weights or self.initialisation == "gaussian" else True,
            target_modules=family.targets(*parts),
            # GPT-2's Conv1D keeps its weight as (in_features, out_features).
            fan_in_fan_out=transposed,
        )

    def _ranks(self, family: Family, layers: int) -> dict[str, int]:
        """Return *rank_pattern* as PEFT reads it, by regular expressions over paths."""
        absent = sorted(index for index in self.rank_pattern if index >= layers)
        if absent:
            raise UnsupportedPair(f"rank_pattern names layer {absent[0]}, and the model has layers 0 to {layers - 1}")
        layer = family.layer.removesuffix(r"\d+")
        return {rf"{layer}{index}\..*": rank for index, rank in sorted(self.rank_pattern.items())}


def rows_of(model: Pretrained, tokens: Sequence[int]) -> dict[str, list[int]]:
    """Return the rows of *tokens* by module: the embeddings, and an output of its own. Refuse tokens that are not there."""
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
    if max(tokens) >= len(inputs.weight):
        raise UnsupportedPair(
            f"train_tokens names token {max(tokens)}, and the model has tokens 0 to {len(inputs.weight) - 1}"
        )
    paths = {id(module): path for path, module in model.named_modules()}
    own = outputs is not None and outputs.weight is not inputs.weight
    return {paths[id(module)]: sorted(set(tokens)) for module in ((inputs, outputs) if own else (inputs,))}


def norms_of(model: Pretrained, family: Family) -> list[str]:
    """Return the paths of the norms in every layer of a model; refuse one without any."""
    inside = re.compile(rf"{family.layer}\..+")
    norms = [
        path
        for path, module in model.named_modules()
        if type(module).__name__.endswith("Norm") and inside.fullmatch(path) and any(True for _ in module.parameters())
    ]
    if not norms:
        raise UnsupportedPair(f"{family.name} has no norms with weights in its layers")
    return norms
