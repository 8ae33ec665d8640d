"""Layers computed anew in the backward pass: the same numbers to the bit, dropout among them, in less memory."""

import pytest
import torch

from lora_bench.errors import UnsupportedPair
from lora_bench.methods import known_methods
from lora_bench.models.base_precision import checkpoint_layers, meet
from lora_bench.models.read_position import read_alone
from lora_bench.testing import PAD, VOCABULARY, tiny_model
from lora_bench.training.measure.bare_step import TrainingStep
from lora_bench.training.measure.step_bytes import predict_step, step_bytes
from lora_bench.tuners.trial import inside_peft
from tests.tiny import tiny_batch, tiny_gpt2_classifier

METHODS = {
    "full": {},
    "bitfit": {},
    "lora": {"rank": 4, "dropout": 0.1},
    "bottleneck_adapter": {"bottleneck_size": 4},
    "prefix_tuning": {"num_virtual_tokens": 3},
    "prefix_layer": {"num_virtual_tokens": 3},
    "prefix_embedding": {"num_virtual_tokens": 3},
}
FAMILIES = ("roberta", "deberta", "deberta-v2", "gpt2", "llama")


def two_rows():
    ids = torch.randint(3, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    ids[1, 6:], mask[1, 6:] = PAD, 0
    return {"input_ids": ids, "attention_mask": mask, "labels": torch.tensor([0, 1])}


def gradients(family, method, precision, *, anew, narrow):
    """The loss and the gradients of a step in training mode, and how often a layer was computed."""
    model, head = tiny_model(family)
    model = model.to(getattr(torch, precision))
    for name in head:
        model.get_submodule(name).float()
    torch.manual_seed(1)
    model = known_methods()[method](**METHODS[method]).apply(model, head=list(head))
    if narrow:
        read_alone(model, inside_peft(model).config.model_type)
    meet(model, head, precision)
    if anew:
        checkpoint_layers(model)
    torch.manual_seed(2)
    loss = model.train()(**two_rows()).loss
    loss.backward()
    return loss, {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


def cases():
    """Every method on every family in float32, and in other types and with the last layer narrowed; some in the default run."""
    for place, (family, method) in enumerate((family, method) for family in FAMILIES for method in METHODS):
        for precision, narrow in (("float32", False), ("bfloat16", False), ("float32", True)):
            marks = () if place % 3 == 0 else pytest.mark.slow
            yield pytest.param(family, method, precision, narrow, marks=marks)


@pytest.mark.parametrize(("family", "method", "precision", "narrow"), cases())
def test_loss_and_gradients_are_the_same_to_the_bit(family, method, precision, narrow):
    try:
        loss, whole = gradients(family, method, precision, anew=False, narrow=narrow)
    except UnsupportedPair:
        pytest.skip("not written for this family")
    again, found = gradients(family, method, precision, anew=True, narrow=narrow)
    assert torch.equal(loss, again) and whole.keys() == found.keys() and whole
    for name, gradient in whole.items():
        assert torch.equal(gradient, found[name]), name


def test_a_step_holds_the_inputs_of_layers_alone_and_multiplies_more():
    def step(anew):
        model = known_methods()["full"]().apply(tiny_gpt2_classifier(n_layer=8), head=["score"])
        if anew:
            checkpoint_layers(model)
        return step_bytes(TrainingStep(model, tiny_batch((48,) * 4, labels=True), "float32"))

    (kept, plain), (anew, more) = step(False), step(True)
    assert anew.activation_bytes < kept.activation_bytes / 3 and anew.peak_bytes < kept.peak_bytes / 1.5
    # A third forward pass of the layers, beside the two of the backward pass.
    assert plain.step < more.step < plain.step * 4 / 3 + 1


def test_a_prediction_from_shapes_has_the_same_layers_in_both_passes():
    def peak(anew):
        with torch.device("meta"):
            model = tiny_gpt2_classifier(n_layer=8, problem_type="single_label_classification").bfloat16()
            model.score.float()
            model = known_methods()["prefix_tuning"](num_virtual_tokens=3).apply(model, head=["score"])
        meet(model, ["score"], "bfloat16")
        if anew:
            checkpoint_layers(model)
        shapes = {"input_ids": (4, 48), "attention_mask": (4, 48), "labels": (4,)}
        return predict_step(model, shapes, "float32", fused_attention=True)[0].peak_bytes

    assert peak(True) < peak(False) / 2


def test_a_class_without_it_is_refused():
    class Plain(torch.nn.Module):
        def gradient_checkpointing_enable(self, options):
            raise ValueError("Plain is not compatible")

    with pytest.raises(UnsupportedPair, match="Plain is not compatible"):
        checkpoint_layers(Plain())
