"""Families of decoders, which write text."""

from lora_bench.families.model_family import TINY_ENDS, TINY_SIZES, Family, Site

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
    tiny={"n_positions": 40, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, **TINY_ENDS},
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
    tiny={**TINY_SIZES, **TINY_ENDS, "num_key_value_heads": 2},
)

DECODERS: tuple[Family, ...] = (GPT2, LLAMA)
