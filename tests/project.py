"""A user's project for tests: a tiny model folder, a CSV file that can be learned, and a suite of ten lines.

The text says its label by one of its words, so a model of a few thousand weights learns it in a few dozen steps.
"""

import csv
import random
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from lora_bench.report.model.choose_method import NO_RESULT
from tests.tiny import WRITERS, tiny_deberta_v2, tiny_gpt2, tiny_roberta

WORDS = [
    "the",
    "a",
    "film",
    "was",
    "is",
    "and",
    "but",
    "quite",
    "very",
    "story",
    "actor",
    "scene",
    "music",
    "plot",
    "end",
]
GOOD, BAD = ["great", "fine", "lovely"], ["awful", "poor", "dull"]
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]

SUITE = """\
suite: tickets
tasks:
  - task: tickets
    data: tickets.csv
    text: subject
    label: queue
models: [base]
methods: [full, lora, bottleneck_adapter, prefix_tuning]
seeds: [0]
budget: {train_examples: 48}
"""


def write_tokenizer(folder: Path) -> None:
    """A word-level tokenizer over the words of this module; `<pad>` is 1, as in the tiny models."""
    vocabulary = {word: index for index, word in enumerate([*SPECIAL, *WORDS, *GOOD, *BAD])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)


def write_model(folder: Path, family: str = "roberta") -> Path:
    """The backbone of a tiny model with its tokenizer, as an ordinary Hugging Face folder."""
    model = ({"roberta": tiny_roberta, "deberta-v2": tiny_deberta_v2, "gpt2": tiny_gpt2} | WRITERS)[family]()
    getattr(model, model.base_model_prefix, model).save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def write_data(path: Path, rows: int = 400) -> Path:
    """Rows of made sentences, each with one word that gives its label away."""
    draw = random.Random(0)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["subject", "queue"])
        for _ in range(rows):
            label = draw.choice(["praise", "complaint"])
            words = draw.choices(WORDS, k=draw.randint(3, 9))
            words.insert(draw.randrange(len(words)), draw.choice(GOOD if label == "praise" else BAD))
            writer.writerow([" ".join(words), label])
    return path


def write_project(folder: Path, suite: str = SUITE, family: str = "roberta") -> Path:
    """Model, data and suite in one folder; the path of the suite."""
    folder.mkdir(parents=True, exist_ok=True)
    write_model(folder / "base", family)
    write_data(folder / "tickets.csv")
    path = folder / "tickets.yaml"
    path.write_text(suite, encoding="utf-8")
    return path


def names_a_method() -> int:
    """Return the exit code of a command that asks for a method: 2 if the report of `runs/tickets` finds no result."""
    return 2 if NO_RESULT in Path("runs/tickets/report.md").read_text(encoding="utf-8") else 0
