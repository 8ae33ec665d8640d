"""Families of decoders, which write text."""

from dataclasses import replace

from lora_bench.families.model_family import TINY_ENDS, TINY_SIZES, Family, sites_after

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
    positions="wpe",
    prefix_kind="cache",
    bottleneck_sites=sites_after("attn.resid_dropout", ("mlp.dropout",), ("mlp",)),
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
    bottleneck_sites=sites_after("self_attn.o_proj", ("mlp.down_proj",), ("mlp",)),
    heads=("score", "qa_outputs"),
    shown="Llama",
    causal=True,
    classes="Llama",
    tiny={**TINY_SIZES, **TINY_ENDS, "num_key_value_heads": 2},
)

# Llama's names, with a bias on queries, keys and values, or none.
MISTRAL = replace(LLAMA, name="mistral", model_types=("mistral",), shown="Mistral", classes="Mistral")
QWEN2 = replace(LLAMA, name="qwen2", model_types=("qwen2",), shown="Qwen 2", classes="Qwen2")

# Heads whose width is no share of that of hidden states, each with a norm on its queries and keys.
_TINY_HEADS = {**LLAMA.tiny, "head_dim": 12}
QWEN3 = replace(LLAMA, name="qwen3", model_types=("qwen3",), shown="Qwen 3", classes="Qwen3", tiny=_TINY_HEADS)

# A norm before and after each half of a layer; the adapters of Houlsby act before the second one, as in BERT.
_TINY_GEMMA = {**_TINY_HEADS, "query_pre_attn_scalar": 12, "sliding_window": 8}
GEMMA2 = replace(LLAMA, name="gemma2", model_types=("gemma2",), shown="Gemma 2", classes="Gemma2", tiny=_TINY_GEMMA)
GEMMA3 = replace(GEMMA2, name="gemma3_text", model_types=("gemma3_text",), shown="Gemma 3", classes="Gemma3Text")

# Llama with query, key and value in one weight, and the gate beside the first projection in another.
PHI3 = replace(
    LLAMA,
    name="phi3",
    model_types=("phi3",),
    query="self_attn.qkv_proj",
    key="self_attn.qkv_proj",
    value="self_attn.qkv_proj",
    feed_forward_in="mlp.gate_up_proj",
    feed_forward_gate=None,
    fused_layout="blocks",
    shown="Phi-3",
    classes="Phi3",
    tiny={**TINY_SIZES, **TINY_ENDS, "resid_pdrop": 0.0, "embd_pdrop": 0.0},
)

# Attention and feed-forward block read the layer's input side by side; query, key and value of a head lie together.
GPT_NEOX = Family(
    name="gpt_neox",
    model_types=("gpt_neox",),
    layer=r"(?:.*\.)?layers\.\d+",
    query="attention.query_key_value",
    key="attention.query_key_value",
    value="attention.query_key_value",
    attention_output="attention.dense",
    feed_forward_in="mlp.dense_h_to_4h",
    feed_forward_out="mlp.dense_4h_to_h",
    self_attention="attention",
    fused_layout="heads",
    attention_norm="input_layernorm",
    prefix_kind="cache",
    bottleneck_sites=sites_after("post_attention_dropout", ("post_mlp_dropout",), ("mlp",)),
    heads=("score", "classifier", "qa_outputs"),
    shown="GPT-NeoX",
    causal=True,
    classes="GPTNeoX",
    tiny={**TINY_SIZES, **TINY_ENDS, "hidden_dropout": 0.0, "attention_dropout": 0.0},
)

# No module has both projections of the feed-forward block, so nothing can stand beside it. The 350M model alone normalises
# behind attention, where `prefix_layer` then has a norm too many.
OPT = replace(
    LLAMA,
    name="opt",
    model_types=("opt",),
    attention_output="self_attn.out_proj",
    feed_forward_in="fc1",
    feed_forward_gate=None,
    feed_forward_out="fc2",
    attention_norm="self_attn_layer_norm",
    bottleneck_sites=sites_after("self_attn.out_proj", ("fc2",)),
    shown="OPT",
    classes="OPT",
    tiny={"ffn_dim": 48, "max_position_embeddings": 40, "word_embed_proj_dim": 32, "dropout": 0.0, **TINY_ENDS},
)

DECODERS: tuple[Family, ...] = (GPT2, LLAMA, MISTRAL, QWEN2, QWEN3, GEMMA2, GEMMA3, PHI3, GPT_NEOX, OPT)
