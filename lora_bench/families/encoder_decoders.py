"""Families of models with an encoder and a decoder."""

from lora_bench.families.model_family import Family, Site

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

# Self-attention and feed-forward block are adapted in each layer of encoder and decoder: a classifier reads the decoder, behind
# both. Attention from the decoder to the encoder stays frozen. Post-norm, and attention reads a layer's input itself.
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
    prefix_kind="cache",
    bottleneck_sites={
        "houlsby": Site(modules=("self_attn.out_proj", "fc2"), placement="after"),
        "pfeiffer": Site(modules=("fc2",), placement="after"),
        "lin": Site(modules=("",), placement="after"),
    },
    heads=("classification_head", "qa_outputs"),
    hidden_size_key="d_model",
    num_heads_key="encoder_attention_heads",
    num_layers_key="encoder_layers",
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
