"""`torch.compile` traces our tuners' models whole, and they give what they give without it."""

import pytest
import torch
from peft import get_peft_model
from torch.nn import functional as F

from lora_bench.tuners import (
    BottleneckConfig,
    FusedLoraConfig,
    PrefixActivationConfig,
    PrefixConfig,
    PrefixEmbeddingConfig,
)
from tests.tiny import CLASSIFIERS, HEAD_MODULES, tiny_batch

CASES = {
    "bottleneck": ("roberta", lambda: BottleneckConfig(bottleneck_size=4, initialisation="paper")),
    "bottleneck pfeiffer": ("roberta", lambda: BottleneckConfig(bottleneck_size=4, variant="pfeiffer")),
    "prefix": ("roberta", lambda: PrefixConfig(num_virtual_tokens=3)),
    "prefix of a decoder": ("gpt2", lambda: PrefixConfig(num_virtual_tokens=3)),
    "reparameterised prefix": (
        "roberta",
        lambda: PrefixConfig(num_virtual_tokens=3, reparameterised=True, reparameterisation_width=5),
    ),
    "prefix_layer": ("gpt2", lambda: PrefixActivationConfig(num_virtual_tokens=3)),
    "prefix_embedding": ("roberta", lambda: PrefixEmbeddingConfig(num_virtual_tokens=3)),
    "fused_lora": ("gpt2", lambda: FusedLoraConfig(r=2)),
    "bottleneck in DeBERTa": ("deberta-v3", lambda: BottleneckConfig(bottleneck_size=4, initialisation="paper")),
    "prefix of DeBERTa": ("deberta-v3", lambda: PrefixConfig(num_virtual_tokens=3)),
    "prefix of DeBERTa v1": ("deberta", lambda: PrefixConfig(num_virtual_tokens=3)),
    "fused_lora in DeBERTa v1": ("deberta", lambda: FusedLoraConfig(r=2)),
}

SMALL = {"num_hidden_layers": 1}  # tracing takes seconds a layer
ONE_LAYER = {"roberta": SMALL, "deberta": SMALL, "deberta-v3": SMALL, "gpt2": {"n_layer": 1}}


def answer(model, call):
    batch = tiny_batch((9, 6), labels=True)
    labels = batch.pop("labels")  # what DeBERTa does with labels depends on their number and cannot be traced
    output = call(**batch)
    F.cross_entropy(output.logits, labels).backward()
    gradients = {path: weight.grad for path, weight in model.named_parameters() if weight.requires_grad}
    model.zero_grad()
    return output.logits.detach(), gradients


@pytest.mark.parametrize("case", CASES)
def test_a_compiled_model_gives_the_same_logits_and_gradients(case):
    family, config = CASES[case]
    torch.manual_seed(5)
    settings = config()
    settings.modules_to_save = HEAD_MODULES[family]
    model = get_peft_model(CLASSIFIERS[family](**ONE_LAYER[family]), settings).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.1 * torch.randn_like(weight))  # off the zeros that some of them start at
    want, want_gradients = answer(model, model)
    torch.compiler.reset()
    # fullgraph: a part that cannot be traced is an error, and not left to Python.
    found, gradients = answer(model, torch.compile(model, backend="eager", fullgraph=True))
    assert (found - want).abs().max() <= 1e-6
    assert all((gradients[path] - gradient).abs().max() <= 1e-6 for path, gradient in want_gradients.items())
