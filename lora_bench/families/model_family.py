"""What a family declares. This module imports no torch."""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Literal

from lora_bench.errors import UnsupportedPair
from lora_bench.families.roles import ROLES, Part

FusedLayout = Literal["blocks", "heads"]
"""Layout of the output of a module that computes query, key and value together.

blocks: all of the query, then all of the key, then all of the value. heads: query, key and value of the first head, then of
the second, and so on.
"""

Placement = Literal["after", "beside", "beside_residual", "between_norms", "around_norm"]
"""Way in which a bottleneck f joins its module, with x the module's input and y its output.

after: y + f(y). beside: y + f(x). beside_residual: the module gets (x, r + f(r)) for its inputs (x, r), so that a module
that ends in LayerNorm(... + r) gives LayerNorm(... + f(r) + r). between_norms: LayerNorm(h + f(z) + r), with h the output of
the module's dense layer and dropout, and z = LayerNorm(h + r). around_norm: the same where the module is that LayerNorm, which
gets s = h + r and gives LayerNorm(s + f(LayerNorm(s))).
"""

PrefixKind = Literal["cache", "deberta", "deberta_v2", "mpnet", "t5"]
"""Way of keys and values into the attention module: through its cache argument, or by the formula of a family without one."""


@dataclass(frozen=True, kw_only=True)
class Site:
    """Place of a bottleneck in every layer.

    Args:
        modules: Paths of the modules that it joins, relative to the layer; an empty path is the layer itself.
        placement: Way in which it joins them.
    """

    modules: tuple[str, ...]
    placement: Placement


def sites_after(output: str, ends: tuple[str, ...], blocks: tuple[str, ...] = ()) -> dict[str, Site]:
    """Return the sites of bottlenecks in a layer with its norms before attention and the feed-forward block.

    They act on the *output* of attention and the *ends* of the block, beside the whole *blocks*, if any, or on the layer.
    """
    sites = {
        "houlsby": Site(modules=(output, *ends), placement="after"),
        "pfeiffer": Site(modules=ends, placement="after"),
        "parallel": Site(modules=blocks, placement="beside"),
        "lin": Site(modules=("",), placement="after"),
    }
    return {variant: site for variant, site in sites.items() if site.modules}


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
        feed_forward_in: First projection of the feed-forward block; several paths if models of the family differ in it. None if
            the block is not known, as in a mixture of experts: methods on attention alone then work.
        feed_forward_out: Second projection of the feed-forward block, or several paths or None as well.
        feed_forward_gate: Projection beside the first, whose output multiplies the first one's, or several paths; None if there
            is none.
        self_attention: Module that takes hidden states and a mask and in which keys meet queries.
        cross_attention: Module of a decoder's layers in which its queries meet the keys of an encoder, with the names of
            *self_attention* inside. A model with it reads a text by the encoder and can write another. None if there is none.
        fused_layout: Layout of query, key and value in the output of one module; None if three modules compute them.
        attention_norm: LayerNorm between a layer's input and its attention; None if attention reads the input itself.
        encoder: Regular expression of the path of the module that calls all layers of an encoder with hidden states and a
            mask; None if there is no such module.
        positions: Table of learned positions beside the layers of a decoder, whose classifiers then take virtual tokens around
            the text; None if there is none.
        prefix_kind: Way of a key/value prefix into *self_attention*; None if none is written.
        bottleneck_sites: Site of each bottleneck variant that the family supports.
        heads: Names of modules whose weights are in no pretrained checkpoint of the family.
        hidden_size_key: Config key of the width of hidden states.
        num_heads_key: Config key of the number of attention heads.
        num_layers_key: Config key of the number of layers, of the encoder if there are both.
        num_decoder_layers_key: Config key of the number of layers of a decoder behind an encoder; None without one.
        head_width_key: Config key of the width of an attention head; by default they share the width of hidden states.
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
    self_attention: str
    cross_attention: str | None = None
    feed_forward_in: str | tuple[str, ...] | None = None
    feed_forward_gate: str | tuple[str, ...] | None = None
    feed_forward_out: str | tuple[str, ...] | None = None
    fused_layout: FusedLayout | None = None
    attention_norm: str | None = None
    encoder: str | None = None
    positions: str | None = None
    prefix_kind: PrefixKind | None = None
    bottleneck_sites: Mapping[str, Site] = field(default_factory=dict)
    heads: tuple[str, ...] = ()
    hidden_size_key: str = "hidden_size"
    num_heads_key: str = "num_attention_heads"
    num_layers_key: str = "num_hidden_layers"
    num_decoder_layers_key: str | None = None
    head_width_key: str = "head_dim"
    reads: Literal["first", "last"] | None = None
    last_norm: str | None = None
    shown: str = ""
    causal: bool = False
    own_masks: bool = False
    packed_types: tuple[str, ...] = ()
    hub_names: Mapping[str, str] = field(default_factory=dict)
    classes: str = ""
    tiny: Mapping[str, Any] = field(default_factory=dict)
    in_every_check: bool = False

    # For pydantic, where a suite has one.
    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    @property
    def fused(self) -> bool:
        """True if one module computes query, key and value together.

        A low-rank update of the whole fused module also adapts the key and shares its first matrix. At an equal budget it is
        another method than the updates of query and value in `tuners.fused_lora`.
        """
        return self.query == self.key == self.value

    def pattern(self, *modules: str, without_layers: Collection[int] = ()) -> str:
        """Return a regular expression that matches the full path of *modules* in every layer, and nothing else.

        A list of names would not do: "output.dense" is also the end of "attention.output.dense". Paths are relative to a layer,
        and in the layers of the indexes *without_layers* nothing matches.
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
        """Return a regular expression of *parts* in every layer, for PEFT. Raise UnsupportedPair for an unknown part."""
        if self.feed_forward_out is None and set(ROLES["ffn"]) & set(parts):
            raise UnsupportedPair(
                f"it is not known which modules are the feed-forward block of {self.name}, as in mixtures of experts; "
                "leave `ffn` and `all` out of targets, or name tensors of experts: `{method: peft, type: LORA, options: "
                "{target_modules: [q_proj], target_parameters: [mlp.experts.gate_up_proj, mlp.experts.down_proj]}}`"
            )
        return self.pattern(*(path for part in parts for path in self.paths(part)))

    def paths(self, part: Part) -> tuple[str, ...]:
        """Return the paths of *part* in a layer. Several are alternatives, or in self- and in cross-attention."""
        declared: str | tuple[str, ...] | None = getattr(self, part)
        if declared is None:
            return ()
        own = (declared,) if isinstance(declared, str) else declared
        if self.cross_attention is None:
            return own
        inside = f"{self.self_attention}."
        across = [path.removeprefix(inside) for path in own if path.startswith(inside)]
        return (*own, *(f"{self.cross_attention}.{name}" for name in across))

    def key_width(self, config: Mapping[str, Any]) -> int:
        """Return the width of all keys of a layer, from the model's config; less than of hidden states if heads share keys."""
        width: int = (config.get("num_key_value_heads") or config[self.num_heads_key]) * self._head_width(config)
        return width

    def slices_at(self, path: str, config: Mapping[str, Any]) -> tuple[Part, ...]:
        """Return the part of each slice of the output at *path*, all equally wide. Raise as `fused_slices` does."""
        parts = self.parts_at(path)
        return parts if len(parts) < 3 else self.fused_slices(config)

    def fused_slices(self, config: Mapping[str, Any]) -> tuple[Part, ...]:
        """Return the part of each slice of a fused output; queries are several slices where heads share keys, as in Phi-4.

        Raise UnsupportedPair if the queries of several heads do not lie together.
        """
        shared = config[self.num_heads_key] * self._head_width(config) // self.key_width(config)
        if shared > 1 and self.fused_layout == "heads":
            raise UnsupportedPair(
                f"{self.name} has each head's queries beside narrower keys in one weight; PEFT's LORA adapts the whole "
                "weight: {method: peft, type: LORA}"
            )
        queries: tuple[Part, ...] = ("query",) * shared
        return (*queries, "key", "value")

    def _head_width(self, config: Mapping[str, Any]) -> int:
        return int(config.get(self.head_width_key) or config[self.hidden_size_key] // config[self.num_heads_key])

    def lacks(self, modules: Iterable[str]) -> list[str]:
        """Return the fields whose modules some layer lacks, of a model with these paths of modules."""
        there = set(modules)
        layers = [path for path in there if re.fullmatch(self.layer, path)]
        if not layers:
            return ["layer"]

        def is_in_each(paths: Iterable[str]) -> bool:
            return all(any(f"{layer}.{path}".rstrip(".") in there for path in paths) for layer in layers)

        single = {name: (getattr(self, name),) for name in ("self_attention", "attention_norm") if getattr(self, name)}
        wanted = {part: self.paths(part) for part in ROLES["all"] if self.paths(part)} | single
        lacking = [name for name, paths in wanted.items() if not is_in_each(paths)]
        sites = self.bottleneck_sites.items()
        return lacking + [
            f"bottleneck_sites: {variant}"
            for variant, site in sites
            if not all(is_in_each([path]) for path in site.modules)
        ]

    def described(self) -> str:
        """Return the names of the parts in a sentence."""
        parts = [f"{part} {' or '.join(self.paths(part))}" for part in ROLES["all"] if self.paths(part)]
        adapters = ", ".join(self.bottleneck_sites) or "none"
        prefix = "fits" if self.prefix_kind else "does not fit"
        return (
            f"{', '.join(parts)}; norm {self.attention_norm or 'none'}; heads {', '.join(self.heads) or 'none'}; "
            f"adapters {adapters}; a prefix {prefix}"
        )

    def head_modules(self, children: Iterable[str]) -> list[str]:
        """Return those of *children*, a model's direct submodules, that are heads, in the model's order."""
        return [child for child in children if child in self.heads]


NOT_GIVEN = ("shown", "classes", "tiny", "hub_names", "packed_types", "in_every_check")
"""Fields that methods do not read."""


def given_keys(family: Family) -> dict[str, Any]:
    """Return what a family declares, as plain data: the keys that differ from their defaults."""
    keys: dict[str, Any] = {}
    for key in fields(family):
        value = getattr(family, key.name)
        default = key.default_factory() if key.default_factory is not MISSING else key.default
        if key.name not in NOT_GIVEN and value != default:
            keys[key.name] = list(value) if isinstance(value, tuple) else value
    if family.bottleneck_sites:
        keys["bottleneck_sites"] = {
            variant: {"modules": list(site.modules), "placement": site.placement}
            for variant, site in family.bottleneck_sites.items()
        }
    return keys


# Dropout would hide what a step moves and what loading restores, so no tiny model has any.
TINY_SIZES = {"intermediate_size": 48, "max_position_embeddings": 40}
TINY_ENCODER = {**TINY_SIZES, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
TINY_ENDS = {"bos_token_id": 1, "eos_token_id": 1}
