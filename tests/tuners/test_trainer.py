"""The Trainer stops, goes on and picks its best checkpoint with our tuners as with any model, and with PiSSA's changed base."""

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import Trainer, TrainingArguments

from lora_bench.tuners import (
    BottleneckConfig,
    FusedLoraConfig,
    PrefixActivationConfig,
    PrefixConfig,
    PrefixEmbeddingConfig,
)
from tests.tiny import tiny_batch, tiny_gpt2_classifier, tiny_roberta

TUNERS = {
    "bottleneck": (tiny_roberta, lambda: BottleneckConfig(bottleneck_size=4, modules_to_save=["classifier"])),
    "prefix": (tiny_roberta, lambda: PrefixConfig(num_virtual_tokens=3, modules_to_save=["classifier"])),
    "reparameterised_prefix": (
        tiny_roberta,
        lambda: PrefixConfig(
            num_virtual_tokens=3,
            reparameterised=True,
            reparameterisation_width=5,
            fold_on_save=False,
            modules_to_save=["classifier"],
        ),
    ),
    "fused_lora": (tiny_gpt2_classifier, lambda: FusedLoraConfig(r=2, lora_dropout=0.1, modules_to_save=["score"])),
    "prefix_layer": (
        tiny_gpt2_classifier,
        lambda: PrefixActivationConfig(num_virtual_tokens=3, modules_to_save=["score"]),
    ),
    "prefix_embedding": (
        tiny_roberta,
        lambda: PrefixEmbeddingConfig(num_virtual_tokens=3, modules_to_save=["classifier"]),
    ),
    "pissa": (
        tiny_roberta,
        lambda: LoraConfig(
            r=2, init_lora_weights="pissa", target_modules=["query", "value"], modules_to_save=["classifier"]
        ),
    ),
}


def adapted(name: str) -> PeftModel:
    make, config = TUNERS[name]
    torch.manual_seed(5)
    return get_peft_model(make(), config())


def trainer(model: PeftModel, folder, **more) -> Trainer:
    batch = tiny_batch((9, 6, 7, 9, 4, 8), labels=True)
    data = [{key: rows[row] for key, rows in batch.items()} for row in range(6)]
    # Six rows in batches of two: an epoch is three steps, and dropout is on.
    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=6, save_strategy="steps", save_steps=1, per_device_train_batch_size=2,
        logging_steps=1, report_to=[], disable_tqdm=True, use_cpu=True, **more,
    )  # fmt: skip
    return Trainer(model=model, args=arguments, train_dataset=data, eval_dataset=data)


def trained(model: PeftModel) -> dict[str, torch.Tensor]:
    return {path: weight.detach().clone() for path, weight in model.named_parameters() if weight.requires_grad}


@pytest.mark.parametrize("stopped_at", [2, 3])
@pytest.mark.parametrize("name", TUNERS)
def test_resumed_weights_and_losses_equal_uninterrupted_ones_bit_for_bit(name, stopped_at, tmp_path):
    whole = trainer(adapted(name), tmp_path, learning_rate=0.01)
    whole.train()
    resumed = trainer(adapted(name), tmp_path, learning_rate=0.01)
    resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{stopped_at}"))
    want, found = trained(whole.model), trained(resumed.model)
    assert list(found) == list(want)
    assert all(torch.equal(found[path], want[path]) for path in want)
    stored = trained(adapted(name))
    assert all(not torch.equal(stored[path], want[path]) for path in want)
    losses = [[entry["loss"] for entry in run.state.log_history if "loss" in entry] for run in (whole, resumed)]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 6


@pytest.mark.parametrize("name", TUNERS)
def test_load_best_model_at_end_brings_the_best_checkpoint_back(name, tmp_path):
    # A learning rate this large makes the loss go up and down.
    run = trainer(
        adapted(name), tmp_path, learning_rate=3.0, load_best_model_at_end=True, eval_strategy="steps", eval_steps=1
    )
    run.train()
    losses = {entry["step"]: entry["eval_loss"] for entry in run.state.log_history if "eval_loss" in entry}
    best = min(losses, key=losses.get)
    assert best < 6  # the last weights would not do
    assert run.state.best_model_checkpoint == str(tmp_path / f"checkpoint-{best}")
    stored = load_file(tmp_path / f"checkpoint-{best}" / "adapter_model.safetensors")
    weights = trained(run.model)
    found = {path.replace(".modules_to_save.default", "").replace(".default", ""): weights[path] for path in weights}
    assert set(found) == set(stored)
    assert all(torch.equal(found[path], stored[path]) for path in stored)
    assert run.evaluate()["eval_loss"] == pytest.approx(losses[best], abs=1e-6)
