"""deberta-mini: a small DeBERTa whose attention needs its relative positions, pretrained for this project.

It has MiniLM-L6's word vectors and tokenizer, and no table of absolute positions. benchmarks/pretrain_deberta_mini.py trained
the rest, which the package ships; the two are joined on first use.
"""

from pathlib import Path
from typing import Any

from lora_bench.models.made_folder import Progress, made_folder
from lora_bench.models.minilm import DEBERTA, Tensors, write_from_minilm
from lora_bench.models.shipped import shipped_files
from lora_bench.util.pip_assets import DEBERTA_MINI

# Raised where the folder that is made has other content.
VERSION = 2

WEIGHTS = "masked_words.safetensors"
CONFIG: dict[str, Any] = {
    **DEBERTA,
    "position_biased_input": False,
    "position_buckets": 32,
    "share_att_key": True,
    "type_vocab_size": 0,
}


def deberta_mini_folder(progress: Progress | None = None) -> Path:
    """Return the folder of deberta-mini, made on first use. Raise AssetUnavailable if its files cannot be had."""
    return made_folder(f"{DEBERTA_MINI}-{VERSION}", DEBERTA_MINI, lambda folder: _write(folder, progress), progress)


def _write(folder: Path, progress: Progress | None) -> None:
    card, weights = shipped_files(DEBERTA_MINI, ("README.md", WEIGHTS), progress).values()
    inputs = ["input_ids", "attention_mask"]
    write_from_minilm(folder, lambda minilm: _joined(weights, minilm), CONFIG, inputs, card.decode(), progress)


def _joined(weights: bytes, minilm: Tensors) -> Tensors:
    """Return the weights of the encoder, which are stored beside a head for masked words, with MiniLM's word vectors."""
    from safetensors.torch import load

    encoder = {
        name.removeprefix("model."): weight.float()
        for name, weight in load(weights).items()
        if name.startswith("model.")
    }
    words = "embeddings.word_embeddings.weight"
    return {**encoder, words: minilm[words]}
