"""Tiny models of every family, made from configs, and batches with padding to run them on.

Two layers of width 32 with 4 heads and a vocabulary of 100: a few tens of thousands of weights, no file and no
network. Weights come from a fixed seed, so two calls give equal models; every base weight, LayerNorms and biases
included, is moved off the values that initialisation gives all models, lest an error hide behind a zero.
"""

import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForSequenceClassification,
    DebertaConfig,
    DebertaForSequenceClassification,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    Phi3Config,
    Phi3ForCausalLM,
    Phi3ForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
    RobertaConfig,
    RobertaForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
)

torch.set_num_threads(1)  # the matrices are too small for a second thread to gain anything

HIDDEN, LAYERS, HEADS, VOCABULARY, PAD = 32, 2, 4, 100, 1

_ENCODER = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "pad_token_id": PAD,
    "num_labels": 3,
}
_GPT2 = {
    "vocab_size": VOCABULARY,
    "n_embd": HIDDEN,
    "n_layer": LAYERS,
    "n_head": HEADS,
    "n_positions": 64,
    "pad_token_id": PAD,
    "bos_token_id": 2,
    "eos_token_id": 2,
}


def _make(model_class: type[PreTrainedModel], config: PreTrainedConfig, seed: int) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def tiny_roberta(*, seed: int = 0, attn: str = "sdpa", **config: object) -> PreTrainedModel:
    """A RoBERTa classifier with three labels."""
    settings = RobertaConfig(**{**_ENCODER, **config}, attn_implementation=attn)
    return _make(RobertaForSequenceClassification, settings, seed)


def tiny_bert(*, seed: int = 0, attn: str = "sdpa", **config: object) -> PreTrainedModel:
    """A BERT classifier with three labels."""
    settings = BertConfig(**{**_ENCODER, **config}, attn_implementation=attn)
    return _make(BertForSequenceClassification, settings, seed)


def tiny_deberta(*, seed: int = 0, **config: object) -> PreTrainedModel:
    """A DeBERTa v1 classifier with three labels and both position terms, as in deberta-base."""
    relative = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_biased_input": False}
    settings = DebertaConfig(**{**_ENCODER, "type_vocab_size": 0, **relative, **config})
    return _make(DebertaForSequenceClassification, settings, seed)


def tiny_deberta_v2(*, seed: int = 0, share_att_key: bool = True, **config: object) -> PreTrainedModel:
    """A DeBERTa v3 classifier with three labels, both position terms and log buckets, as in deberta-v3-base."""
    relative = {
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_biased_input": False,
        "share_att_key": share_att_key,
        "position_buckets": 8,
        "norm_rel_ebd": "layer_norm",
    }
    settings = DebertaV2Config(**{**_ENCODER, "type_vocab_size": 0, **relative, **config})
    return _make(DebertaV2ForSequenceClassification, settings, seed)


def tiny_gpt2_classifier(*, seed: int = 0, attn: str = "sdpa", **config: object) -> PreTrainedModel:
    """A GPT-2 classifier with three labels, which reads the last token that is not padding."""
    settings = GPT2Config(**{**_GPT2, "num_labels": 3, **config}, attn_implementation=attn)
    return _make(GPT2ForSequenceClassification, settings, seed)


def tiny_gpt2(*, seed: int = 0, attn: str = "sdpa", **config: object) -> PreTrainedModel:
    """A GPT-2 language model."""
    settings = GPT2Config(**{**_GPT2, **config}, attn_implementation=attn)
    return _make(GPT2LMHeadModel, settings, seed)


def tiny_phi4(*, seed: int = 0, writes: bool = False) -> PreTrainedModel:
    """A Phi-3 whose four heads share two keys, as in Phi-4: queries are 32 wide, keys and values 16."""
    config = Phi3Config(**_ENCODER, num_key_value_heads=2, bos_token_id=1, eos_token_id=1)
    return _make(Phi3ForCausalLM if writes else Phi3ForSequenceClassification, config, seed)


def tiny_t5(*, seed: int = 0, attn: str = "sdpa", **config: object) -> PreTrainedModel:
    """A T5 that writes, of version 1.1: a gate in its feed-forward blocks; it begins with the padding token."""
    sizes = {
        "vocab_size": VOCABULARY,
        "d_model": HIDDEN,
        "d_kv": 8,
        "d_ff": 64,
        "num_layers": LAYERS,
        "num_heads": HEADS,
    }
    ends = {"pad_token_id": PAD, "eos_token_id": 2, "decoder_start_token_id": PAD}
    gated = {"feed_forward_proj": "gated-gelu", "dropout_rate": 0.0}
    settings = T5Config(**{**sizes, **ends, **gated, **config}, attn_implementation=attn)
    return _make(T5ForConditionalGeneration, settings, seed)


def tiny_bart(*, seed: int = 0, attn: str = "sdpa", **config: object) -> PreTrainedModel:
    """A BART that writes; it begins with the end of a text."""
    sizes = {"vocab_size": VOCABULARY, "d_model": HIDDEN, "encoder_layers": LAYERS, "decoder_layers": LAYERS}
    sizes |= {"encoder_attention_heads": HEADS, "decoder_attention_heads": HEADS, "max_position_embeddings": 64}
    sizes |= {"encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
    ends = {"pad_token_id": PAD, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2}
    settings = BartConfig(**{**sizes, **ends, "dropout": 0.0, **config}, attn_implementation=attn)
    return _make(BartForConditionalGeneration, settings, seed)


CLASSIFIERS = {
    "roberta": tiny_roberta,
    "bert": tiny_bert,
    "deberta": tiny_deberta,
    "deberta-v2": lambda **config: tiny_deberta_v2(share_att_key=False, **config),
    "deberta-v3": tiny_deberta_v2,
    "gpt2": tiny_gpt2_classifier,
}
"""A maker of a classifier for every family, both ways of deberta-v2 included."""

MODELS = {**CLASSIFIERS, "gpt2-lm": tiny_gpt2}
"""`CLASSIFIERS` and the language model."""

WRITERS = {"t5": tiny_t5, "bart": tiny_bart}
"""A maker of a model that writes behind an encoder for each family of these."""

HEAD_MODULES = {
    "roberta": ["classifier"],
    "bert": ["classifier"],
    "deberta": ["pooler", "classifier"],
    "deberta-v2": ["pooler", "classifier"],
    "deberta-v3": ["pooler", "classifier"],
    "gpt2": ["score"],
    "gpt2-lm": [],
}
"""Head modules of each of `MODELS`."""


def tiny_batch(
    lengths: tuple[int, ...] = (9, 6), *, padding_side: str = "right", seed: int = 0, labels: bool = False
) -> dict[str, torch.Tensor]:
    """Rows of random tokens with these many real tokens each, padded to the longest.

    Returns:
        `input_ids` and `attention_mask`, shape (len(lengths), max(lengths)), and with *labels* one of three classes
        for each row, shape (len(lengths),).
    """
    generator = torch.Generator().manual_seed(seed)
    longest = max(lengths)
    input_ids = torch.full((len(lengths), longest), PAD)
    attention_mask = torch.zeros(len(lengths), longest, dtype=torch.long)
    for row, length in enumerate(lengths):
        start = 0 if padding_side == "right" else longest - length
        input_ids[row, start : start + length] = torch.randint(3, VOCABULARY, (length,), generator=generator)
        attention_mask[row, start : start + length] = 1
    batch = {"input_ids": input_ids, "attention_mask": attention_mask}
    if labels:
        batch["labels"] = torch.arange(len(lengths)) % 3
    return batch
