"""A start from an adapter in a folder: its weights without its head, and only where it fits the method in full."""

import json

import pytest
import torch
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from lora_bench.errors import LoraBenchError
from lora_bench.methods.full import Full
from lora_bench.methods.lora import Lora
from lora_bench.records.kept_adapter import find_adapter
from lora_bench.training.warm_start import start_from_adapter
from tests.tiny import tiny_roberta

HEAD = ["classifier"]


@pytest.fixture
def adapter(tmp_path):
    """A kept LoRA adapter of rank 2 with all weights 0.5, its head too."""
    model = Lora(rank=2).apply(tiny_roberta(), head=HEAD)
    for weight in model.parameters():
        torch.nn.init.constant_(weight, 0.5)
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_the_adapters_weights_are_taken_and_the_head_stays(adapter):
    model = Lora(rank=2).apply(tiny_roberta(), head=HEAD)
    before = {name: weight.clone() for name, weight in get_peft_model_state_dict(model).items()}
    start_from_adapter(model, adapter, HEAD)
    after = get_peft_model_state_dict(model)
    adapted = [name for name in after if "lora_" in name]
    assert adapted and all(torch.all(after[name] == 0.5) for name in adapted)
    rest = after.keys() - set(adapted)
    assert rest and all(torch.equal(after[name], before[name]) for name in rest)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (Lora(rank=3), "has weights that do not fit this method, such as base_model"),
        (Lora(rank=2, scaling=1.0), "has lora_alpha 4.0, and this method 2.0"),
        (Full(), "does not fit a method that trains the base model"),
    ],
)
def test_an_adapter_of_another_size_strength_or_method_is_refused(adapter, method, message):
    with pytest.raises(LoraBenchError, match=message):
        start_from_adapter(method.apply(tiny_roberta(), head=HEAD), adapter, HEAD)


def test_an_adapter_that_covers_half_of_the_model_is_refused(adapter):
    weights = load_file(adapter / "adapter_model.safetensors")
    save_file(
        {name: weight for name, weight in weights.items() if "query" in name}, adapter / "adapter_model.safetensors"
    )
    with pytest.raises(LoraBenchError, match=r"lacks base_model.*value.*, which this method trains"):
        start_from_adapter(Lora(rank=2).apply(tiny_roberta(), head=HEAD), adapter, HEAD)


def test_the_hash_is_of_weights_and_configuration(adapter):
    before = find_adapter(adapter).sha256
    (adapter / "README.md").write_text("changed")
    assert find_adapter(adapter).sha256 == before
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "lora_alpha": 1}))
    assert find_adapter(adapter).sha256 != before


@pytest.mark.parametrize(("name", "content"), [("adapter_config.json", "[]"), ("adapter_config.json", "{")])
def test_what_is_no_adapter_is_refused(adapter, name, content):
    (adapter / name).write_text(content)
    with pytest.raises(LoraBenchError, match=r"adapter_config.json (must be an object, got list|cannot be read)"):
        find_adapter(adapter)


def test_damaged_weights_are_refused(adapter):
    (adapter / "adapter_model.safetensors").write_bytes(b"\x00" * 20)
    with pytest.raises(LoraBenchError, match=r"adapter_model\.safetensors is not a complete safetensors file"):
        start_from_adapter(Lora(rank=2).apply(tiny_roberta(), head=HEAD), adapter, HEAD)
