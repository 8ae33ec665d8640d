"""The model that a method is tried on is small, and as deep as the method's options need."""

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from lora_bench.families import FAMILIES, family_of
from lora_bench.testing import tiny_model
from lora_bench.tuners.trial import LAYERS, deep_model, small_model
from tests.tiny import tiny_deberta_v2

DEPTH = 6


def model_and_config(family):
    model, _ = tiny_model(family)
    config = model.config
    key = family_of(family).num_layers_key
    # ModernBERT's layers are of two kinds, so its depth is given when the config is made.
    config = type(config)(**{**config.to_diff_dict(), key: DEPTH, "num_labels": 3, "layer_types": None})
    return type(model), config


@pytest.mark.parametrize("family", [family.name for family in FAMILIES])
def test_a_deep_model_has_every_layer_in_the_memory_of_two_and_answers(family):
    model_class, config = model_and_config(family)
    shallow, deep = small_model(model_class, config), deep_model(model_class, config)
    with torch.device("meta"):
        whole = AutoModelForSequenceClassification.from_config(config)
    assert [path for path, _ in deep.named_modules()] == [path for path, _ in whole.named_modules()]
    assert len(dict(deep.named_parameters())) > len(dict(shallow.named_parameters()))
    assert not any(tensor.is_meta for tensor in [*deep.parameters(), *deep.buffers()])
    held = {weight.untyped_storage().data_ptr(): weight.untyped_storage().nbytes() for weight in deep.parameters()}
    assert sum(held.values()) == sum(weight.nbytes for weight in shallow.parameters())
    ids = torch.tensor([[5, 6, 7, 1]])
    logits = deep.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    assert logits.shape == (1, 3) and bool(logits.isfinite().all())


def test_a_layer_that_is_unlike_the_second_has_weights_of_its_own():
    config = tiny_deberta_v2(num_hidden_layers=DEPTH).config
    one = deep_model(type(tiny_deberta_v2()), config)
    layers = one.deberta.encoder.layer
    assert layers[5].output.dense.weight.data_ptr() == layers[LAYERS - 1].output.dense.weight.data_ptr()
    assert layers[0].output.dense.weight.data_ptr() != layers[LAYERS - 1].output.dense.weight.data_ptr()
