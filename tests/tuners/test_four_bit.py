"""On a base whose linear layers are kept in four bits (QLoRA), adapters do what they do on the dense weights these stand for.

Everything is in training mode, without dropout: in evaluation, bitsandbytes multiplies in bfloat16 on some CPUs.
"""

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, BitsAndBytesConfig
from transformers.pytorch_utils import Conv1D

from lora_bench.errors import UnsupportedPair
from lora_bench.methods import known_methods
from tests.tiny import CLASSIFIERS, HEAD_MODULES, tiny_batch

bitsandbytes = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")

# bitsandbytes quantises blocks of 64 weights.
_ENCODER = {
    "hidden_size": 64, "intermediate_size": 128, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
FAMILIES = {
    "roberta": _ENCODER,
    "deberta-v3": _ENCODER,
    "gpt2": {"n_embd": 64, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
}
METHODS = {
    "lora": ("lora", {"rank": 2}),
    "lora on all": ("lora", {"rank": 2, "targets": ("all",)}),
    **{
        variant: ("bottleneck_adapter", {"bottleneck_size": 4, "variant": variant})
        for variant in ("houlsby", "pfeiffer", "parallel", "lin")
    },
    "prefix_tuning": ("prefix_tuning", {"num_virtual_tokens": 3}),
    "reparameterised prefix": (
        "prefix_tuning",
        {"num_virtual_tokens": 3, "reparameterised": True, "reparameterisation_width": 5},
    ),
    "prefix_layer": ("prefix_layer", {"num_virtual_tokens": 3}),
    "prefix_embedding": ("prefix_embedding", {"num_virtual_tokens": 3}),
}
PAIRS = [(family, case) for family in FAMILIES for case in METHODS]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    found = {family: tmp_path_factory.mktemp(family) for family in FAMILIES}
    for family, options in FAMILIES.items():
        CLASSIFIERS[family](**options).save_pretrained(found[family])
    return found


def four_bit(folder, head):
    quantised = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.float32,
        llm_int8_skip_modules=head,  # transformers leaves out a head that it knows, and not DeBERTa's pooler
    )
    return AutoModelForSequenceClassification.from_pretrained(
        folder, quantization_config=quantised, device_map="cpu", dtype=torch.float32
    )


@torch.no_grad()
def dense(folder, quantised):
    """The model whose weights are the numbers that the four bits stand for."""
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    count = 0
    for path, module in quantised.named_modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            weight = bitsandbytes.functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
            own = model.get_submodule(path)
            own.weight.copy_(weight.T if isinstance(own, Conv1D) else weight)
            count += 1
    assert count == model.config.num_hidden_layers * (4 if model.config.model_type == "gpt2" else 6)
    return model


def adapted(case, base, head):
    name, options = METHODS[case]
    torch.manual_seed(5)
    model = known_methods()[name](**options).apply(base, head=list(head)).train()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.1 * torch.randn_like(weight))  # off the zeros that some of them start at
    return model


def trained(model):
    return {path: weight for path, weight in model.named_parameters() if weight.requires_grad}


@pytest.mark.parametrize(("family", "case"), PAIRS)
def test_logits_and_gradients_are_those_on_the_dense_weights(family, case, folders):
    head = HEAD_MODULES[family]
    base = four_bit(folders[family], head)
    reference = adapted(case, dense(folders[family], base), head)
    model = adapted(case, base, head)
    outputs = [one(**tiny_batch((9, 6), labels=True)) for one in (model, reference)]
    for output in outputs:
        output.loss.backward()
    assert (outputs[0].logits - outputs[1].logits).abs().max() <= 1e-4
    assert {weight.dtype for weight in trained(model).values()} == {torch.float32}
    assert trained(model).keys() == trained(reference).keys()
    for path, weight in trained(reference).items():
        assert (trained(model)[path].grad - weight.grad).abs().max() <= 1e-4 * max(1, weight.grad.abs().max()), path


@pytest.mark.parametrize("case", ["lora", "houlsby", "prefix_tuning", "prefix_layer"])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_saved_gives_the_same_logits_on_a_fresh_base_and_holds_nothing_of_it(family, case, folders, tmp_path):
    head = HEAD_MODULES[family]
    model = adapted(case, four_bit(folders[family], head), head)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(four_bit(folders[family], head), tmp_path, is_trainable=True).train()
    assert torch.equal(loaded(**tiny_batch()).logits, model(**tiny_batch()).logits)
    assert sum(weight.numel() for weight in trained(loaded).values()) == sum(
        weight.numel() for weight in trained(model).values()
    )


@pytest.mark.parametrize(
    ("family", "name", "options", "reason"),
    [
        ("gpt2", "lora", {"use_dora": True}, "DoRA on a fused weight needs the length of its rows"),
        ("roberta", "lora", {"initialisation": "pissa"}, "pissa starts from weights in floating point"),
        ("roberta", "lora", {"initialisation": "olora"}, "olora starts from weights in floating point"),
        ("gpt2", "full", {}, "full fine-tuning needs weights in floating point"),
        ("gpt2", "full", {"top_layers": 1}, r"transformer\.h\.1\.attn\.c_attn\.weight is quantised"),
    ],
)
def test_what_needs_the_dense_weight_is_refused(family, name, options, reason, folders):
    head = HEAD_MODULES[family]
    with pytest.raises(UnsupportedPair, match=reason):
        known_methods()[name](**options).apply(four_bit(folders[family], head), head=list(head))


def test_biases_stay_in_floating_point_and_can_be_trained(folders):
    model = known_methods()["bitfit"]().apply(four_bit(folders["roberta"], ["classifier"]), head=["classifier"])
    model.train()(**tiny_batch(labels=True)).loss.backward()
    biases = [weight for path, weight in trained(model).items() if "classifier" not in path]
    assert biases and all(weight.grad is not None for weight in biases)
