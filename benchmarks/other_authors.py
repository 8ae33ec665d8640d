"""The losses of gpt2-mini and deberta-mini on text of authors whom neither has read: snippets of newspaper editorials.

    python -m benchmarks.other_authors

Prints the figures that their cards give: nats a token, and nats a masked word, there also without the terms between content
and relative position. The snippets come with vaderSentiment (Hutto and Gilbert 2014), by pip. It takes a minute on one core.
"""

from __future__ import annotations

import json

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer, GPT2LMHeadModel

from benchmarks.pretrain_deberta_mini import MaskedWords, held_out_loss, without_positions
from lora_bench.models.deberta_mini import WEIGHTS, deberta_mini_folder
from lora_bench.models.registry import known_models
from lora_bench.models.shipped import DATA
from lora_bench.util.pip_assets import members

EDITORIALS = (
    "vaderSentiment-2.5/additional_resources/hutto_ICWSM_2014.tar.gz/hutto_ICWSM_2014/"
    "nytEditorialSnippets_GroundTruth.txt"
)
BLOCK = 256


def editorials(tokenizer: object) -> NDArray[np.int64]:
    """Return the snippets as one stream of token ids, shape (tokens,)."""
    (snippets,) = members("vader-sentiment", [EDITORIALS]).values()
    text = " ".join(line.split("\t")[2] for line in snippets.decode().splitlines())
    return np.array(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])  # type: ignore[operator]


@torch.no_grad()
def loss_of_gpt2_mini() -> float:
    """Return the mean loss of gpt2-mini in nats a token, over blocks of `BLOCK` that follow each other."""
    folder = known_models()["gpt2-mini"].folder(None)
    model = GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32).eval()
    stream = editorials(AutoTokenizer.from_pretrained(folder))
    blocks = torch.from_numpy(stream[: len(stream) // BLOCK * BLOCK].reshape(-1, BLOCK))
    return float(np.mean([model(input_ids=part, labels=part).loss.item() for part in blocks.split(1)]))


def losses_of_deberta_mini() -> tuple[float, float]:
    """Return the mean loss of deberta-mini in nats a masked word: whole, and without the relative terms."""
    masked_words = MaskedWords(AutoModel.from_pretrained(deberta_mini_folder()).eval())
    weights = {name: weight.float() for name, weight in load_file(DATA / "deberta-mini" / WEIGHTS).items()}
    masked_words.load_state_dict(weights, strict=False)
    tokenizer = AutoTokenizer.from_pretrained(deberta_mini_folder())
    stream = editorials(tokenizer)
    whole = held_out_loss(masked_words, stream, tokenizer)
    with without_positions():
        return whole, held_out_loss(masked_words, stream, tokenizer)


if __name__ == "__main__":
    whole, without = losses_of_deberta_mini()
    print(json.dumps({"gpt2-mini": loss_of_gpt2_mini(), "deberta-mini": whole, "without": without}, indent=1))
