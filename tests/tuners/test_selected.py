"""Weights trained in place: only the chosen ones move and are stored, and what cannot be undone says so."""

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file

from lora_bench.errors import LoraBenchError, UnsupportedPair
from lora_bench.tuners import SelectedConfig
from tests.tiny import CLASSIFIERS, HEAD_MODULES, MODELS, tiny_batch, tiny_roberta


def adapted(name, weights=".*bias", **more):
    return get_peft_model(MODELS[name](), SelectedConfig(weights=weights, modules_to_save=HEAD_MODULES[name], **more))


def logits(model):
    with torch.no_grad():
        return model.eval()(**tiny_batch()).logits


def disturb(model):
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.1)
    return model


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_the_file_holds_what_was_trained_and_gives_the_same_logits(name, tmp_path):
    base = logits(CLASSIFIERS[name]())
    model = disturb(adapted(name))
    assert (logits(model) - base).abs().max() > 1e-3
    model.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "adapter_model.safetensors")
    assert sum(t.numel() for t in stored.values()) == sum(w.numel() for w in model.parameters() if w.requires_grad)
    loaded = PeftModel.from_pretrained(CLASSIFIERS[name](), tmp_path)
    assert torch.equal(logits(loaded), logits(model))
    plain = CLASSIFIERS[name]()
    plain.load_adapter(str(tmp_path))
    assert torch.equal(logits(plain), logits(model))


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_the_biases_of_the_head_are_the_heads(name):
    model = adapted(name)
    in_head = [path for path, weight in model.named_parameters() if ".modules_to_save." in path]
    chosen = [path for path, weight in model.named_parameters() if weight.requires_grad and path not in in_head]
    assert chosen
    assert all(path.endswith("bias") and path.split(".")[2] not in HEAD_MODULES[name] for path in chosen)


def test_merging_gives_the_plain_model_with_its_head():
    model = disturb(adapted("roberta"))
    want = logits(model)
    plain = model.merge_and_unload()
    assert [path for path, _ in plain.named_modules()] == [path for path, _ in tiny_roberta().named_modules()]
    assert torch.equal(logits(plain), want)


def test_what_would_need_the_old_weights_is_refused():
    model = adapted("roberta")
    with pytest.raises(LoraBenchError, match="cannot be unloaded: load the base model again"):
        model.unload()
    with pytest.raises(LoraBenchError, match="cannot be disabled: load the base model again"), model.disable_adapter():
        pass
    with pytest.raises(UnsupportedPair, match="are one adapter of a model"):
        model.add_adapter("second", SelectedConfig(weights=".*"))


def test_weights_that_do_not_exist_are_refused_before_anything_is_frozen():
    model = tiny_roberta()
    with pytest.raises(UnsupportedPair, match=r"no weight of RobertaForSequenceClassification is named '.\*biass'"):
        get_peft_model(model, SelectedConfig(weights=".*biass"))
    assert all(weight.requires_grad for weight in model.parameters())
    with pytest.raises(LoraBenchError, match="must be a regular expression, got '\\('"):
        SelectedConfig(weights="(")


def test_a_file_that_lacks_a_weight_is_refused(tmp_path):
    adapted("roberta").save_pretrained(tmp_path)
    config = SelectedConfig(weights=".*(bias|weight)", modules_to_save=["classifier"])
    with pytest.raises(LoraBenchError, match=r"lacks \d+ of the chosen weights"):
        get_peft_model(tiny_roberta(), config).load_adapter(tmp_path, "default")
