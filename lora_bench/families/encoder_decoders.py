"""Families of models with an encoder and a decoder."""

from lora_bench.families.model_family import Family, Site, sites_after

# All layers of encoder and decoder are adapted, where a model has both. LoRA and prefixes act on attention to the encoder too;
# bottleneck adapters do not, as in AdapterHub's defaults.

# Pre-norm, without biases. The feed-forward block is the second half of a layer of the encoder and the third part of one of the
# decoder; that of version 1.1 has a gate, and other names.
_T5_BLOCKS = ("layer.1.DenseReluDense", "layer.2.DenseReluDense")
T5 = Family(
    name="t5",
    model_types=("t5",),
    layer=r"(?:.*\.)?(?:encoder|decoder)\.block\.\d+",
    query="layer.0.SelfAttention.q",
    key="layer.0.SelfAttention.k",
    value="layer.0.SelfAttention.v",
    attention_output="layer.0.SelfAttention.o",
    feed_forward_in=tuple(f"{block}.{name}" for block in _T5_BLOCKS for name in ("wi", "wi_1")),
    feed_forward_gate=tuple(f"{block}.wi_0" for block in _T5_BLOCKS),
    feed_forward_out=tuple(f"{block}.wo" for block in _T5_BLOCKS),
    self_attention="layer.0.SelfAttention",
    cross_attention="layer.1.EncDecAttention",
    attention_norm="layer.0.layer_norm",
    prefix_kind="t5",
    bottleneck_sites=sites_after("layer.0.SelfAttention.o", _T5_BLOCKS, _T5_BLOCKS),
    heads=("classification_head", "classifier", "qa_outputs"),
    hidden_size_key="d_model",
    num_heads_key="num_heads",
    num_layers_key="num_layers",
    num_decoder_layers_key="num_decoder_layers",
    head_width_key="d_kv",
    shown="T5",
    classes="T5",
    tiny={
        "d_kv": 12,
        "d_ff": 48,
        "feed_forward_proj": "gated-gelu",
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
        "dropout_rate": 0.0,
    },
)

# Post-norm, and attention reads a layer's input itself.
BART = Family(
    name="bart",
    model_types=("bart",),
    layer=r"(?:.*\.)?(?:encoder|decoder)\.layers\.\d+",
    query="self_attn.q_proj",
    key="self_attn.k_proj",
    value="self_attn.v_proj",
    attention_output="self_attn.out_proj",
    feed_forward_in="fc1",
    feed_forward_out="fc2",
    self_attention="self_attn",
    cross_attention="encoder_attn",
    prefix_kind="cache",
    bottleneck_sites={
        "houlsby": Site(modules=("self_attn.out_proj", "fc2"), placement="after"),
        "pfeiffer": Site(modules=("final_layer_norm",), placement="around_norm"),
        "lin": Site(modules=("",), placement="after"),
    },
    heads=("classification_head", "qa_outputs"),
    hidden_size_key="d_model",
    num_heads_key="encoder_attention_heads",
    num_layers_key="encoder_layers",
    num_decoder_layers_key="decoder_layers",
    shown="BART",
    classes="Bart",
    tiny={
        "decoder_layers": 2,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 48,
        "decoder_ffn_dim": 48,
        "max_position_embeddings": 40,
        "dropout": 0.0,
        "bos_token_id": 2,
        "eos_token_id": 1,
        "decoder_start_token_id": 1,
    },
)

ENCODER_DECODERS: tuple[Family, ...] = (T5, BART)
