"""Families of encoders."""

from dataclasses import replace

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
    model_types=("roberta", "bert"),
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

# The names of BERT. Packs are tested for RoBERTa alone, and what reads the answer for XLM-R too.
XLM_ROBERTA = replace(
    ROBERTA,
    name="xlm-roberta",
    model_types=("xlm-roberta",),
    shown="XLM-RoBERTa",
    packed_types=(),
    hub_names={},
    classes="XLMRoberta",
    in_every_check=False,
)
CAMEMBERT = replace(
    XLM_ROBERTA, name="camembert", model_types=("camembert",), reads=None, shown="CamemBERT", classes="Camembert"
)
ELECTRA = replace(CAMEMBERT, name="electra", model_types=("electra",), shown="ELECTRA", classes="Electra")

DEBERTA = replace(
    XLM_ROBERTA,
    name="deberta",
    model_types=("deberta",),
    query="attention.self.in_proj",
    key="attention.self.in_proj",
    value="attention.self.in_proj",
    fused_layout="heads",
    prefix_kind="deberta",
    heads=("pooler", "classifier", "qa_outputs"),
    shown="DeBERTa",
    own_masks=True,
    classes="Deberta",
    tiny={**TINY_ENCODER, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
)
DEBERTA_V2 = replace(
    DEBERTA,
    name="deberta-v2",
    model_types=("deberta-v2",),
    query="attention.self.query_proj",
    key="attention.self.key_proj",
    value="attention.self.value_proj",
    fused_layout=None,
    prefix_kind="deberta_v2",
    shown="DeBERTa-v2/v3",
    packed_types=("deberta-v2",),
    classes="DebertaV2",
    tiny={**DEBERTA.tiny, "share_att_key": True, "position_buckets": 8},
    in_every_check=True,
)

# MPNet's layers are those of BERT with other names. One table gives the scores of all layers a bias for each distance, so its
# attention is handed that bias and takes no cache.
MPNET = replace(
    CAMEMBERT,
    name="mpnet",
    model_types=("mpnet",),
    query="attention.attn.q",
    key="attention.attn.k",
    value="attention.attn.v",
    attention_output="attention.attn.o",
    self_attention="attention.attn",
    prefix_kind="mpnet",
    bottleneck_sites={
        **_POST_NORM_SITES,
        "houlsby": Site(modules=("attention.dropout", "output.dropout"), placement="after"),
    },
    shown="MPNet",
    classes="MPNet",
)

# Distilled from BERT, with names of its own. Its attention takes no cache, so a prefix has no way in. No module has the two
# norms that Pfeiffer's adapter stands between; neither has one of ALBERT.
_DISTILBERT_STACK = r"(?:.*\.)?transformer"
DISTILBERT = Family(
    name="distilbert",
    model_types=("distilbert",),
    layer=rf"{_DISTILBERT_STACK}\.layer\.\d+",
    query="attention.q_lin",
    key="attention.k_lin",
    value="attention.v_lin",
    attention_output="attention.out_lin",
    feed_forward_in="ffn.lin1",
    feed_forward_out="ffn.lin2",
    self_attention="attention",
    encoder=_DISTILBERT_STACK,
    bottleneck_sites={
        "houlsby": Site(modules=("attention.out_lin", "ffn.dropout"), placement="after"),
        "parallel": Site(modules=("ffn",), placement="beside"),
        "lin": Site(modules=("output_layer_norm",), placement="after"),
    },
    heads=("pre_classifier", "classifier", "qa_outputs"),
    hidden_size_key="dim",
    num_heads_key="n_heads",
    num_layers_key="n_layers",
    shown="DistilBERT",
    classes="DistilBert",
    tiny={
        "hidden_dim": 48,
        "max_position_embeddings": 40,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "seq_classif_dropout": 0.0,
    },
)

# All passes through ALBERT share the weights of a group of layers, mostly one: an adapter of a group acts in each of its
# passes, and its weights are counted once. Its attention takes no cache, and its stack reads embeddings of another width.
ALBERT = Family(
    name="albert",
    model_types=("albert",),
    layer=r"(?:.*\.)?albert_layer_groups\.\d+",
    query="albert_layers.0.attention.query",
    key="albert_layers.0.attention.key",
    value="albert_layers.0.attention.value",
    attention_output="albert_layers.0.attention.dense",
    feed_forward_in="albert_layers.0.ffn",
    feed_forward_out="albert_layers.0.ffn_output",
    self_attention="albert_layers.0.attention",
    bottleneck_sites={
        "houlsby": Site(
            modules=("albert_layers.0.attention.output_dropout", "albert_layers.0.ffn_output"), placement="after"
        ),
        "lin": Site(modules=("albert_layers.0.full_layer_layer_norm",), placement="after"),
    },
    heads=("classifier", "qa_outputs"),
    num_layers_key="num_hidden_groups",
    shown="ALBERT",
    classes="Albert",
    tiny={**TINY_ENCODER, "num_hidden_layers": 4, "embedding_size": 24, "classifier_dropout_prob": 0.0},
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

ENCODERS: tuple[Family, ...] = (
    ROBERTA, DEBERTA, DEBERTA_V2, MPNET, DISTILBERT, XLM_ROBERTA, CAMEMBERT, ELECTRA, ALBERT, MODERNBERT,
)  # fmt: skip
