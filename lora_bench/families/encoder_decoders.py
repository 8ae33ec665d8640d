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

ENCODER_DECODERS: tuple[Family, ...] = (T5,)
