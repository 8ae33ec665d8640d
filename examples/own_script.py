"""A plain Trainer script, as anybody has one; but for the base model, the callback is all that it knows of lora_bench.

python examples/own_script.py lora; python examples/own_script.py full; lora-bench report runs/mine
"""

import sys

from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments

import lora_bench
from lora_bench.models.gpt2_mini import gpt2_mini_folder

BASE = gpt2_mini_folder()  # a small GPT-2 that comes with lora_bench
things = ["the film", "this book", "her song", "the meal", "our hotel", "the old map"]
words = {"wonderful": 1, "splendid": 1, "a joy": 1, "dreadful": 0, "dull": 0, "a waste of time": 0}
degrees = ["always", "truly", "rather", "never less than"]
texts = [(f"{thing} was {degree} {word}.", words[word]) for thing in things for degree in degrees for word in words]

tokenizer = AutoTokenizer.from_pretrained(BASE)
tokenizer.pad_token = tokenizer.eos_token
data = Dataset.from_list([{"text": text, "labels": label} for text, label in texts])
data = data.map(lambda row: tokenizer(row["text"]), remove_columns="text").train_test_split(0.25, seed=0)

model = AutoModelForSequenceClassification.from_pretrained(BASE, num_labels=2, dtype="float32")
model.config.pad_token_id = tokenizer.pad_token_id
rate = 1e-3
if sys.argv[1:] == ["lora"]:
    model, rate = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", r=4, fan_in_fan_out=True)), 1e-2

arguments = TrainingArguments("runs/trainer", num_train_epochs=3, per_device_train_batch_size=8, learning_rate=rate,
                              eval_strategy="epoch", save_strategy="no", report_to="none")  # fmt: skip
trainer = Trainer(
    model, arguments, train_dataset=data["train"], eval_dataset=data["test"], processing_class=tokenizer,
    compute_metrics=lambda found: {"accuracy": float((found.predictions.argmax(-1) == found.label_ids).mean())},
    callbacks=[lora_bench.BenchmarkCallback("runs/mine")],
)  # fmt: skip
trainer.train()
