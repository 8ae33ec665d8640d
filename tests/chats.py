"""Small models with a chat template, and conversations that they can learn."""

import json
import random
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lora_bench.families import family_of
from tests.project import BAD, GOOD, SPECIAL, WORDS
from tests.tiny import PAD, VOCABULARY

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ROLES = ["user", "assistant", "system"]
START, STOP = "<|im_start|>", "<|im_end|>"


def chat_tokenizer(template: str | None = CHATML) -> PreTrainedTokenizerFast:
    """The word-level tokenizer of `tests.project` with the names of roles and the marks of turns."""
    vocabulary = {word: index for index, word in enumerate([*SPECIAL, *WORDS, *GOOD, *BAD, *ROLES])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>",
        additional_special_tokens=[START, STOP],
    )  # fmt: skip
    made.chat_template = template
    return made


def write_chat_model(folder: Path, family: str, template: str | None = CHATML, **config: object) -> Path:
    """A tiny causal model of a family with its language head and `chat_tokenizer`, as an ordinary Hugging Face folder."""
    known = family_of(family)
    sizes = {known.hidden_size_key: 32, known.num_layers_key: 2, known.num_heads_key: 4, "vocab_size": VOCABULARY}
    given = {**sizes, **known.tiny, "pad_token_id": PAD, **config}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = getattr(transformers, f"{known.classes}Config")(**given)
        transformers.AutoModelForCausalLM.from_config(made).save_pretrained(folder)
    chat_tokenizer(template).save_pretrained(folder)
    return folder


def echoes(count: int) -> list[list[dict[str, str]]]:
    """Conversations of two turns, in which each answer is the last word of its question, then `end`."""
    draw = random.Random(0)
    found = []
    for _ in range(count):
        asked = [draw.choices(WORDS, k=3) for _ in range(2)]
        messages = []
        for words in asked:
            messages += [
                {"role": "user", "content": " ".join(words)},
                {"role": "assistant", "content": f"{words[-1]} end"},
            ]
        found.append(messages)
    return found


def write_chats(path: Path, chats: list[list[dict[str, str]]]) -> None:
    """Conversations as JSON Lines."""
    path.write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats), encoding="utf-8")
