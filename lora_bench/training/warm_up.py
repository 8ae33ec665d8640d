"""A dry run that pays the one-time costs of a process before its first run."""

from __future__ import annotations

import gc
import tempfile
from functools import cache

import torch
from transformers import PrinterCallback, Trainer, TrainingArguments

from lora_bench.kinds.exercises.predicting import quiet
from lora_bench.methods import known_methods
from lora_bench.metrics import metric


@cache
def warm_up() -> None:
    """Do a step and a prediction of a tiny model, so that the first run of a process pays no one-time costs.

    The objects of the libraries live as long as the process. A garbage collection of their half a million objects takes a
    quarter of a second, and a run does two, so they are frozen.
    """
    import datasets  # noqa: F401  # the imports that a run makes on its way
    from transformers import RobertaConfig, RobertaForSequenceClassification

    metric("accuracy").compute(predictions=[0], references=[0])
    config = RobertaConfig(
        vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, pad_token_id=1
    )
    examples = [{"input_ids": [2, 3, 4], "attention_mask": [1, 1, 1], "labels": 0}] * 2
    with tempfile.TemporaryDirectory() as folder, quiet():
        arguments = TrainingArguments(
            folder, max_steps=1, report_to="none", save_strategy="no", disable_tqdm=True, logging_strategy="no",
            use_cpu=not torch.cuda.is_available(),
        )  # fmt: skip
        model = known_methods()["lora"]().apply(RobertaForSequenceClassification(config), head=["classifier"])
        trainer = Trainer(model, args=arguments, train_dataset=examples)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        trainer.predict(examples)
    del model, trainer
    gc.collect()
    gc.freeze()
