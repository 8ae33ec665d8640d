"""A reparameterised prefix is a plain one in every respect but its training, and only the plain one is stored."""

import copy

import pytest
import torch
from peft import PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file
from torch import nn
from transformers import Trainer, TrainingArguments

from lora_bench.errors import LoraBenchError
from lora_bench.tuners import PrefixConfig, PrefixLayer, fold
from lora_bench.tuners.prefix import reparameterised_prefix
from tests.tiny import HEAD_MODULES, HIDDEN, LAYERS, MODELS, tiny_batch, tiny_gpt2, tiny_roberta

LENGTH, UNITS = 3, 5


def prefixed(model: nn.Module, length: int = LENGTH, **more) -> PeftModel:
    torch.manual_seed(5)
    config = PrefixConfig(num_virtual_tokens=length, reparameterised=True, reparameterisation_width=UNITS, **more)
    return get_peft_model(model, config).eval()


def layers(model: nn.Module) -> list[PrefixLayer]:
    return [module for module in model.modules() if isinstance(module, PrefixLayer)]


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(**tiny_batch()).logits


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {path: weight for path, weight in model.named_parameters() if weight.requires_grad}


def stored(model: nn.Module) -> int:
    return sum(tensor.numel() for tensor in get_peft_model_state_dict(model).values())


def test_the_formula_on_numbers_a_reader_can_follow():
    embedding = torch.tensor([[1.0, 2.0]])
    hidden_weight, hidden_bias = torch.tensor([[1.0, -1.0]]), torch.tensor([1.0])
    weight, bias = torch.tensor([[1.0], [2.0], [3.0], [4.0]]), torch.tensor([0.0, 1.0, 0.0, 1.0])
    # tanh(1 - 2 + 1) = 0, so what is left is the bias: key (0, 1), value (0, 1)
    key, value = reparameterised_prefix(embedding, hidden_weight, hidden_bias, weight, bias)
    assert (key.tolist(), value.tolist()) == ([[0.0, 1.0]], [[0.0, 1.0]])
    key, value = reparameterised_prefix(embedding, hidden_weight, hidden_bias + 30, weight, bias)  # tanh(30) = 1
    assert (key.tolist(), value.tolist()) == ([[1.0, 3.0]], [[3.0, 5.0]])


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("length", [1, 4])
def test_the_counts_are_those_of_the_network_and_of_what_it_gives(name, length):
    model = prefixed(MODELS[name](), length)
    network = length * HIDDEN + UNITS * HIDDEN + UNITS + LAYERS * (2 * HIDDEN * UNITS + 2 * HIDDEN)
    assert sum(weight.numel() for weight in trained(model).values()) == network
    assert stored(model) == 2 * LAYERS * length * HIDDEN
    fold(model)
    assert sum(weight.numel() for weight in trained(model).values()) == stored(model) == 2 * LAYERS * length * HIDDEN


def test_what_is_stored_can_be_counted_without_weights():
    with torch.device("meta"):
        model = tiny_roberta()
    assert stored(prefixed(model)) == 2 * LAYERS * LENGTH * HIDDEN


@pytest.mark.parametrize("name", MODELS)
def test_folding_changes_no_bit_of_the_answer(name):
    model = prefixed(MODELS[name]())
    want = logits(model)
    fold(model)
    assert torch.equal(logits(model), want)
    assert model.peft_config["default"].reparameterised is False
    assert all(layer.prefix_key["default"].shape == (LENGTH, HIDDEN) for layer in layers(model))


@pytest.mark.parametrize("name", MODELS)
def test_the_file_holds_the_plain_prefix_and_a_config_that_says_so(name, tmp_path):
    model = prefixed(MODELS[name](), modules_to_save=HEAD_MODULES[name] or None)
    model.save_pretrained(tmp_path)
    file = load_file(tmp_path / "adapter_model.safetensors")
    names = {path.rsplit(".", 1)[1] for path in file if ".prefix_" in path}
    assert names == {"prefix_key", "prefix_value"}
    in_head = sum(weight.numel() for path, weight in trained(model).items() if "modules_to_save" in path)
    assert sum(tensor.numel() for tensor in file.values()) == in_head + 2 * LAYERS * LENGTH * HIDDEN
    assert model.peft_config["default"].reparameterised is True  # the model goes on training what it trained
    loaded = PeftModel.from_pretrained(MODELS[name](), tmp_path).eval()
    assert loaded.peft_config["default"].reparameterised is False
    assert torch.equal(logits(loaded), logits(model))


def test_loading_a_file_into_the_model_that_trains_gives_the_files_prefix(tmp_path):
    # This is what Trainer does for load_best_model_at_end.
    model = prefixed(tiny_roberta())
    want = logits(model)
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        for weight in trained(model).values():
            weight.add_(1.0)
    assert (logits(model) - want).abs().max() > 1e-3
    model.load_adapter(tmp_path, "default", is_trainable=True)
    assert torch.equal(logits(model), want)


def test_load_best_model_at_end_brings_the_best_prefix_back(tmp_path):
    batch = tiny_batch(labels=True)
    data = [{key: rows[row] for key, rows in batch.items()} for row in range(2)]
    model = prefixed(tiny_roberta(), modules_to_save=["classifier"])
    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=4, eval_strategy="steps", save_strategy="steps", eval_steps=1, save_steps=1,
        learning_rate=10.0, load_best_model_at_end=True, report_to=[], disable_tqdm=True, use_cpu=True,
    )  # fmt: skip
    trainer = Trainer(model=model, args=arguments, train_dataset=data, eval_dataset=data)
    trainer.train()
    best = min(entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry)
    assert trainer.state.best_metric == best
    assert trainer.evaluate()["eval_loss"] == pytest.approx(best, abs=1e-6)


def test_a_file_that_is_not_folded_holds_what_is_trained_and_loads_as_it_was(tmp_path):
    model = prefixed(tiny_roberta(), fold_on_save=False)
    model.save_pretrained(tmp_path)
    network = LENGTH * HIDDEN + UNITS * HIDDEN + UNITS + LAYERS * (2 * HIDDEN * UNITS + 2 * HIDDEN)
    assert sum(tensor.numel() for tensor in load_file(tmp_path / "adapter_model.safetensors").values()) == network
    loaded = PeftModel.from_pretrained(tiny_roberta(), tmp_path, is_trainable=True).eval()
    assert loaded.peft_config["default"].reparameterised is True
    assert all(torch.equal(weight, trained(loaded)[path]) for path, weight in trained(model).items())
    assert torch.equal(logits(loaded), logits(model))
    fold(loaded)
    assert stored(loaded) == 2 * LAYERS * LENGTH * HIDDEN
    with pytest.raises(LoraBenchError, match="the file holds a reparameterised prefix and the model a plain one"):
        loaded.load_adapter(tmp_path, "default")


def test_two_prefixes_share_nothing_and_each_can_be_folded_alone():
    model = prefixed(tiny_gpt2())
    model.add_adapter("second", PrefixConfig(num_virtual_tokens=2, reparameterised=True, reparameterisation_width=4))
    first = logits(model)
    model.set_adapter("second")
    second = logits(model)
    fold(model, "second")
    assert torch.equal(logits(model), second)
    model.delete_adapter("second")
    model.set_adapter("default")
    assert torch.equal(logits(model), first)


def test_a_copy_of_the_model_computes_from_its_own_weights():
    model = prefixed(tiny_gpt2())
    want = logits(model)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for weight in trained(model).values():
            weight.zero_()
    assert torch.equal(logits(twin), want)


def test_a_width_of_no_units_is_refused():
    with pytest.raises(LoraBenchError, match="reparameterisation_width must be at least 1, got 0"):
        PrefixConfig(num_virtual_tokens=2, reparameterisation_width=0)
