"""Names of the parts of each model family.

A method must find the query projection, the end of a feed-forward block or the classification head in models that name them
differently. All such names stand here as data: one declaration for each family, read by methods, tuners and the counting of
parameters. A new family is one more declaration. Paths are relative to one transformer layer. `Family.pattern` turns them into
the regular expression that PEFT matches with whole module paths. This module imports no torch.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from lora_bench.errors import UnsupportedPair, unknown

Part = Literal["query", "key", "value", "attention_output", "feed_forward_in", "feed_forward_gate", "feed_forward_out"]

Role = Literal["query", "key", "value", "output", "ffn", "all"]

ROLES: Mapping[Role, tuple[Part, ...]] = {
    "query": ("query",),
    "key": ("key",),
    "value": ("value",),
    "output": ("attention_output",),
    "ffn": ("feed_forward_in", "feed_forward_gate", "feed_forward_out"),
    "all": ("query", "key", "value", "attention_output", "feed_forward_in", "feed_forward_gate", "feed_forward_out"),
}
"""Parts of a layer by role; a role means the same in every family."""

FusedLayout = Literal["blocks", "heads"]
"""Layout of the output of a module that computes query, key and value together.

blocks: all of the query, then all of the key, then all of the value. heads: query, key and value of the first head, then of
the second, and so on.
"""

Placement = Literal["after", "beside", "beside_residual", "between_norms"]
"""Way in which a bottleneck f joins its module, with x the module's input and y its output.

after: y + f(y). beside: y + f(x). beside_residual: the module gets (x, r + f(r)) for its inputs (x, r), so that a module
that ends in LayerNorm(... + r) gives LayerNorm(... + f(r) + r). between_norms: LayerNorm(h + f(z) + r), with h the output of
the module's dense layer and dropout, and z = LayerNorm(h + r).
"""

PrefixKind = Literal["cache", "deberta", "deberta_v2"]
"""Way of keys and values into the attention module: through its cache argument, or by one of DeBERTa's two formulas."""


@dataclass(frozen=True, kw_only=True)
class Site:
    """Place of a bottleneck in every layer.

    Args:
        modules: Paths of the modules that it joins, relative to the layer; an empty path is the layer itself.
        placement: Way in which it joins them.
    """

    modules: tuple[str, ...]
    placement: Placement


@dataclass(frozen=True, kw_only=True)
class Family:
    """One way of building a transformer, as far as a fine-tuning method needs it.

    Args:
        name: Name in messages and reports.
        model_types: Values of `model_type` in Hugging Face configs that it covers.
        layer: Regular expression of the path of one layer, ending in that of any index.
        query: Module that computes queries; the same as *key* and *value* if one module computes all three.
        key: Module that computes keys.
        value: Module that computes values.
        attention_output: Projection at the end of attention.
        feed_forward_in: First projection of the feed-forward block; several paths if models of the family differ in it.
        feed_forward_out: Second projection of the feed-forward block.
        feed_forward_gate: Projection beside the first, whose output multiplies the first one's; None if there is none.
        self_attention: Module that takes hidden states and a mask and in which keys meet queries.
        fused_layout: Layout of query, key and value in the output of one module; None if three modules compute them.
        attention_norm: LayerNorm between a layer's input and its attention; None if attention reads the input itself.
        encoder: Regular expression of the path of the module that calls all layers of an encoder with hidden states and a
            mask; None if there is no such module.
        prefix_kind: Way of a key/value prefix into *self_attention*; None if none is written.
        bottleneck_sites: Site of each bottleneck variant that the family supports.
        heads: Names of modules whose weights are in no pretrained checkpoint of the family.
        hidden_size_key: Config key of the width of hidden states.
        num_heads_key: Config key of the number of attention heads.
        num_layers_key: Config key of the number of layers.
        reads: Token that a classifier's head reads; None if `models.read_position` is not written for the family.
        last_norm: Norm behind all layers, by its path beside the layers; None if the head reads the last layer's output.
        shown: Name in tables.
        causal: True if a token attends only to those before it, so that the model can write text.
        own_masks: True if attention builds its mask from the mask of the rows, and takes no ready one.
        packed_types: Those of *model_types* for which packed runs are tested against isolated ones.
        hub_names: Repositories of its models on the hub, by a name from before repositories had owners.
        classes: Beginning of its class names in transformers, such as "Roberta" of "RobertaConfig".
        tiny: Config of its tiny model beside width, heads, layers and vocabulary; see `lora_bench.testing.tiny_model`.
        in_every_check: True if `check_method` tries a method on it by default.
    """

    name: str
    model_types: tuple[str, ...]
    layer: str
    query: str
    key: str
    value: str
    attention_output: str
    feed_forward_in: str | tuple[str, ...]
    feed_forward_out: str
    self_attention: str
    feed_forward_gate: str | None = None
    fused_layout: FusedLayout | None = None
    attention_norm: str | None = None
    encoder: str | None = None
    prefix_kind: PrefixKind | None = None
    bottleneck_sites: Mapping[str, Site] = field(default_factory=dict)
    heads: tuple[str, ...]
    hidden_size_key: str = "hidden_size"
    num_heads_key: str = "num_attention_heads"
    num_layers_key: str = "num_hidden_layers"
    reads: Literal["first", "last"] | None = None
    last_norm: str | None = None
    shown: str
    causal: bool = False
    own_masks: bool = False
    packed_types: tuple[str, ...] = ()
    hub_names: Mapping[str, str] = field(default_factory=dict)
    classes: str
    tiny: Mapping[str, Any]
    in_every_check: bool = False

    @property
    def fused(self) -> bool:
        """True if one module computes query, key and value together.

        A low-rank update of the whole fused module also adapts the key and shares its first matrix. At an equal budget it is
        another method than the updates of query and value in `tuners.fused_lora`.
        """
        return self.query == self.key == self.value

    def pattern(self, *modules: str, without_layers: Collection[int] = ()) -> str:
        """Return a regular expression that matches the full path of *modules* in every layer, and nothing else.

        A list of names would not do: "output.dense" is also the end of "attention.output.dense".

        Args:
            modules: Paths relative to a layer.
            without_layers: Indexes of layers in which nothing matches.
        """
        layer = self.layer
        if without_layers:
            left_out = "|".join(str(index) for index in sorted(without_layers))
            layer = layer.removesuffix(r"\d+") + rf"(?!(?:{left_out})(?:\.|$))\d+"
        if modules == ("",):
            return layer
        alternatives = "|".join(re.escape(module) for module in dict.fromkeys(modules))
        return rf"{layer}\.(?:{alternatives})"

    def parts_at(self, path: str) -> tuple[Part, ...]:
        """Return the parts that the module at *path* computes: one, all three of a fused module, or none."""
        own = (part for part in ROLES["all"] if self.paths(part))
        return tuple(part for part in own if re.fullmatch(self.targets(part), path))

    def targets(self, *parts: Part) -> str:
        """Return a regular expression of *parts* in every layer, for PEFT's `target_modules`."""
        return self.pattern(*(path for part in parts for path in self.paths(part)))

    def paths(self, part: Part) -> tuple[str, ...]:
        """Return the possible paths of *part*, relative to a layer: none, one, or several alternatives."""
        declared: str | tuple[str, ...] | None = getattr(self, part)
        if declared is None:
            return ()
        return (declared,) if isinstance(declared, str) else declared

    def key_width(self, config: Mapping[str, Any]) -> int:
        """Return the width of a layer's keys, all heads together; smaller than that of hidden states if heads share keys.

        Args:
            config: The model's config as a mapping.
        """
        heads = config[self.num_heads_key]
        head_width = config.get("head_dim") or config[self.hidden_size_key] // heads
        width: int = (config.get("num_key_value_heads") or heads) * head_width
        return width

    def head_modules(self, children: Iterable[str]) -> list[str]:
        """Return those of *children*, a model's direct submodules, that are heads, in the model's order."""
        return [child for child in children if child in self.heads]


# Dropout would hide what a step moves and what loading restores, so no tiny model has any.
_TINY_SIZES = {"intermediate_size": 48, "max_position_embeddings": 40}
_TINY_ENCODER = {**_TINY_SIZES, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
_TINY_ENDS = {"bos_token_id": 1, "eos_token_id": 1}

# Encoders of the BERT line agree on everything but the inside of attention. Their layers are post-norm: each half
# ends in LayerNorm(dropout(dense(x)) + residual) in a module called `output`.
_ENCODER = r"(?:.*\.)?encoder"
_ENCODER_LAYER = rf"{_ENCODER}\.layer\.\d+"
_POST_NORM_SITES = {
    "houlsby": Site(modules=("attention.output.dropout", "output.dropout"), placement="after"),
    "pfeiffer": Site(modules=("output",), placement="between_norms"),
    "parallel": Site(modules=("output",), placement="beside_residual"),
    "lin": Site(modules=("output",), placement="after"),
}

ROBERTA = Family(
    name="roberta",
    model_types=("roberta", "xlm-roberta", "bert"),
    layer=_ENCODER_LAYER,
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    attention_output="attention.output.dense",
    feed_forward_in="intermediate.dense",
    feed_forward_out="output.dense",
    self_attention="attention.self",
    encoder=_ENCODER,
    prefix_kind="cache",
    bottleneck_sites=_POST_NORM_SITES,
    heads=("classifier", "qa_outputs"),
    reads="first",
    shown="RoBERTa",
    packed_types=("roberta",),
    hub_names={"roberta-base": "FacebookAI/roberta-base", "roberta-large": "FacebookAI/roberta-large"},
    classes="Roberta",
    tiny=_TINY_ENCODER,
    in_every_check=True,
)

DEBERTA = Family(
    name="deberta",
    model_types=("deberta",),
    layer=_ENCODER_LAYER,
    query="attention.self.in_proj",
    key="attention.self.in_proj",
    value="attention.self.in_proj",
    attention_output="attention.output.dense",
    feed_forward_in="intermediate.dense",
    feed_forward_out="output.dense",
    self_attention="attention.self",
    encoder=_ENCODER,
    fused_layout="heads",
    prefix_kind="deberta",
    bottleneck_sites=_POST_NORM_SITES,
    heads=("pooler", "classifier", "qa_outputs"),
    reads="first",
    shown="DeBERTa",
    own_masks=True,
    classes="Deberta",
    tiny={**_TINY_ENCODER, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
)

DEBERTA_V2 = Family(
    name="deberta-v2",
    model_types=("deberta-v2",),
    layer=_ENCODER_LAYER,
    query="attention.self.query_proj",
    key="attention.self.key_proj",
    value="attention.self.value_proj",
    attention_output="attention.output.dense",
    feed_forward_in="intermediate.dense",
    feed_forward_out="output.dense",
    self_attention="attention.self",
    encoder=_ENCODER,
    prefix_kind="deberta_v2",
    bottleneck_sites=_POST_NORM_SITES,
    heads=("pooler", "classifier", "qa_outputs"),
    reads="first",
    shown="DeBERTa-v2/v3",
    own_masks=True,
    packed_types=("deberta-v2",),
    classes="DebertaV2",
    tiny={
        **_TINY_ENCODER,
        "relative_attention": True,
        "pos_att_type": ["c2p", "p2c"],
        "share_att_key": True,
        "position_buckets": 8,
    },
    in_every_check=True,
)

# GPT-2's layers are pre-norm: x + attn(ln_1(x)), then x + mlp(ln_2(x)). Pfeiffer's adapter has no LayerNorm to sit
# between here, so it is the feed-forward half of Houlsby's.
GPT2 = Family(
    name="gpt2",
    model_types=("gpt2",),
    layer=r"(?:.*\.)?h\.\d+",
    query="attn.c_attn",
    key="attn.c_attn",
    value="attn.c_attn",
    attention_output="attn.c_proj",
    feed_forward_in="mlp.c_fc",
    feed_forward_out="mlp.c_proj",
    self_attention="attn",
    fused_layout="blocks",
    attention_norm="ln_1",
    prefix_kind="cache",
    bottleneck_sites={
        "houlsby": Site(modules=("attn.resid_dropout", "mlp.dropout"), placement="after"),
        "pfeiffer": Site(modules=("mlp.dropout",), placement="after"),
        "parallel": Site(modules=("mlp",), placement="beside"),
        "lin": Site(modules=("",), placement="after"),
    },
    heads=("score", "classifier", "qa_outputs"),
    hidden_size_key="n_embd",
    num_heads_key="n_head",
    num_layers_key="n_layer",
    reads="last",
    last_norm="ln_f",
    shown="GPT-2",
    causal=True,
    packed_types=("gpt2",),
    hub_names={"gpt2-medium": "openai-community/gpt2-medium", "gpt2-large": "openai-community/gpt2-large"},
    classes="GPT2",
    tiny={"n_positions": 40, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, **_TINY_ENDS},
    in_every_check=True,
)


# Pre-norm like GPT-2, with rotated queries and keys, keys shared by several heads, and no biases. A prefix is not rotated:
# it has no position.
LLAMA = Family(
    name="llama",
    model_types=("llama",),
    layer=r"(?:.*\.)?layers\.\d+",
    query="self_attn.q_proj",
    key="self_attn.k_proj",
    value="self_attn.v_proj",
    attention_output="self_attn.o_proj",
    feed_forward_in="mlp.up_proj",
    feed_forward_gate="mlp.gate_proj",
    feed_forward_out="mlp.down_proj",
    self_attention="self_attn",
    attention_norm="input_layernorm",
    prefix_kind="cache",
    bottleneck_sites={
        "houlsby": Site(modules=("self_attn.o_proj", "mlp.down_proj"), placement="after"),
        "pfeiffer": Site(modules=("mlp.down_proj",), placement="after"),
        "parallel": Site(modules=("mlp",), placement="beside"),
        "lin": Site(modules=("",), placement="after"),
    },
    heads=("score", "qa_outputs"),
    shown="Llama",
    causal=True,
    classes="Llama",
    tiny={**_TINY_SIZES, **_TINY_ENDS, "num_key_value_heads": 2},
)

# Pre-norm, with query, key and value in one weight and the gate of the feed-forward block in its first projection. Its
# attention takes no cache, so a prefix has no way in; and the model reads attributes of its layers, so none is wrapped.
MODERNBERT = Family(
    name="modernbert",
    model_types=("modernbert",),
    layer=r"(?:.*\.)?layers\.\d+",
    query="attn.Wqkv",
    key="attn.Wqkv",
    value="attn.Wqkv",
    attention_output="attn.Wo",
    feed_forward_in="mlp.Wi",
    feed_forward_out="mlp.Wo",
    self_attention="attn",
    fused_layout="blocks",
    attention_norm="attn_norm",
    bottleneck_sites={
        "houlsby": Site(modules=("attn.out_drop", "mlp"), placement="after"),
        "pfeiffer": Site(modules=("mlp",), placement="after"),
        "parallel": Site(modules=("mlp",), placement="beside"),
    },
    heads=("classifier",),
    shown="ModernBERT",
    classes="ModernBert",
    tiny={**_TINY_SIZES, **_TINY_ENDS, "local_attention": 8, "cls_token_id": 1, "sep_token_id": 2},
)

# Only T5's encoder is adapted: where a model has a decoder too, it stays frozen. Pre-norm, without biases; the feed-forward
# block of version 1.1 has a gate, and other names. Attention adds a position bias that the first layer computes for all, of
# the width of the keys: a prefix has no way in. A block returns a tuple, so its second half stands for it in `lin`.
T5 = Family(
    name="t5",
    model_types=("t5",),
    layer=r"(?:.*\.)?encoder\.block\.\d+",
    query="layer.0.SelfAttention.q",
    key="layer.0.SelfAttention.k",
    value="layer.0.SelfAttention.v",
    attention_output="layer.0.SelfAttention.o",
    feed_forward_in=("layer.1.DenseReluDense.wi", "layer.1.DenseReluDense.wi_1"),
    feed_forward_gate="layer.1.DenseReluDense.wi_0",
    feed_forward_out="layer.1.DenseReluDense.wo",
    self_attention="layer.0.SelfAttention",
    attention_norm="layer.0.layer_norm",
    bottleneck_sites={
        "houlsby": Site(modules=("layer.0.dropout", "layer.1.dropout"), placement="after"),
        "pfeiffer": Site(modules=("layer.1.dropout",), placement="after"),
        "parallel": Site(modules=("layer.1.DenseReluDense",), placement="beside"),
        "lin": Site(modules=("layer.1",), placement="after"),
    },
    heads=("classification_head", "classifier", "qa_outputs"),
    hidden_size_key="d_model",
    num_heads_key="num_heads",
    num_layers_key="num_layers",
    shown="T5 encoder",
    classes="T5",
    tiny={
        "d_kv": 8,
        "d_ff": 48,
        "feed_forward_proj": "gated-gelu",
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
        "dropout_rate": 0.0,
    },
)


def roles_in_order(roles: Iterable[Role]) -> tuple[Role, ...]:
    """Return the roles in one order, so that two spellings are one method; all of them are `all`.

    Raises:
        ValueError: If a role is named twice.
    """
    named = tuple(roles)
    if len(set(named)) < len(named) or ("all" in named and len(named) > 1):
        raise ValueError(f"names something twice: {', '.join(named)}")
    every = tuple(role for role in ROLES if role != "all")
    return ("all",) if set(named) == set(every) else tuple(role for role in ROLES if role in named)


def parts_of(roles: Iterable[Role]) -> tuple[Part, ...]:
    """Return the parts that *roles* stand for, each once, in the order of a layer's computation."""
    named = {part for role in roles for part in ROLES[role]}
    return tuple(part for part in ROLES["all"] if part in named)


FAMILIES: tuple[Family, ...] = (ROBERTA, DEBERTA, DEBERTA_V2, GPT2, LLAMA, MODERNBERT, T5)


def family_of(model_type: str) -> Family:
    """Return the family of a model, by the `model_type` of its config.

    Raises:
        UnsupportedPair: If no family covers *model_type*.
    """
    by_model_type = {known: family for family in FAMILIES for known in family.model_types}
    if model_type not in by_model_type:
        raise UnsupportedPair(str(unknown("model type", model_type, by_model_type)))
    return by_model_type[model_type]


def hub_name(model: str) -> str:
    """Return the hub's current name of a base model, for a name from before repositories had owners."""
    return next((family.hub_names[model] for family in FAMILIES if model in family.hub_names), model)
