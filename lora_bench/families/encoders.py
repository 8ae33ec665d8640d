"""Families of encoders."""

from lora_bench.families.model_family import TINY_ENCODER, TINY_ENDS, TINY_SIZES, Family, Site

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
    tiny=TINY_ENCODER,
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
    tiny={**TINY_ENCODER, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
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
        **TINY_ENCODER,
        "relative_attention": True,
        "pos_att_type": ["c2p", "p2c"],
        "share_att_key": True,
        "position_buckets": 8,
    },
    in_every_check=True,
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
    tiny={**TINY_SIZES, **TINY_ENDS, "local_attention": 8, "cls_token_id": 1, "sep_token_id": 2},
)

ENCODERS: tuple[Family, ...] = (ROBERTA, DEBERTA, DEBERTA_V2, MODERNBERT)
