"""A base model in sixteen bits: frozen weights stay there, trained ones are in float32, and answers near."""

import copy

import pytest
import torch

from lora_bench.errors import UnsupportedPair
from lora_bench.methods import known_methods
from lora_bench.models.base_precision import meet
from lora_bench.models.loading import load_model
from lora_bench.models.registry import find_model
from lora_bench.models.shared_copy import own_trained
from lora_bench.testing import PAD, VOCABULARY, tiny_model
from tests.project import write_model

PEFT = "IA3", "VERA", "LOHA", "OFT", "HRA", "LN_TUNING", "ADALORA"
METHODS = {
    "full, the last layer": ("full", {"top_layers": 1}),
    "bitfit": ("bitfit", {}),
    "linear_probe": ("linear_probe", {}),
    "lora": ("lora", {"targets": ("all",), "train_norms": True}),
    "lora, with DoRA": ("lora", {"use_dora": True}),
    "lora, with tokens": ("lora", {"train_tokens": (5, 7)}),
    "bottleneck_adapter": ("bottleneck_adapter", {"bottleneck_size": 4}),
    "prefix_tuning": ("prefix_tuning", {"num_virtual_tokens": 3}),
    "prefix_layer": ("prefix_layer", {"num_virtual_tokens": 3}),
    "prefix_embedding": ("prefix_embedding", {"num_virtual_tokens": 3}),
    **{f"peft, {name}": ("peft", {"type": name}) for name in PEFT},
    "peft, PROMPT_TUNING": ("peft", {"type": "PROMPT_TUNING", "options": {"num_virtual_tokens": 3}}),
}


def adapted(family, name, precision, kind="classification"):
    """An adapted tiny model over a base in a precision, and the same one in float32 with the base's weights as rounded."""
    method, options = METHODS[name]
    made = []
    for rounded in (False, True):
        model, head = tiny_model(family, kind)
        model = model.to(getattr(torch, precision))
        model = model.float() if rounded else model
        for module in head:
            model.get_submodule(module).float()
        torch.manual_seed(1)
        model = known_methods()[method](**options).apply(model, head=list(head))
        own_trained(model)
        meet(model, head, "float32" if rounded else precision)
        made.append(model.eval())
    own, rounded = (dict(model.named_parameters()) for model in made)
    for path, weight in own.items():
        rounded[path].data = weight.data.float().clone()
    return made


def two_rows():
    """A row of nine tokens, and one of six with padding behind them."""
    ids = torch.randint(3, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    ids[1, 6:], mask[1, 6:] = PAD, 0
    return {"input_ids": ids, "attention_mask": mask}


def cases():
    """Every method on four families in bfloat16, and on one in float16."""
    for place, (family, name) in enumerate((family, name) for family in FAMILIES for name in METHODS):
        for precision in ("bfloat16", "float16"):
            fast = place % 4 == 0 and precision == "bfloat16"
            marks = () if fast else pytest.mark.slow
            if precision == "bfloat16" or family == "roberta":
                yield pytest.param(family, name, precision, marks=marks, id=f"{family}-{name}-{precision}")


FAMILIES = ("roberta", "deberta", "deberta-v2", "gpt2")


@pytest.mark.parametrize(("family", "name", "precision"), cases())
def test_answers_and_gradients_are_those_of_float32_but_for_the_rounding_of_activations(family, name, precision):
    try:
        own, rounded = adapted(family, name, precision)
    except UnsupportedPair:
        pytest.skip("in float32 neither")
    frozen = {path: weight for path, weight in own.named_parameters() if not weight.requires_grad}
    trained = {path: weight for path, weight in own.named_parameters() if weight.requires_grad}
    of_base = {weight.dtype for path, weight in frozen.items() if ".classifier" not in path and ".score" not in path}
    assert of_base >= {getattr(torch, precision)} and {weight.dtype for weight in trained.values()} == {torch.float32}
    before = {path: weight.clone() for path, weight in frozen.items()}
    inputs = {**two_rows(), "labels": torch.tensor([0, 1])}
    mine, theirs = own(**inputs), rounded(**inputs)
    assert mine.logits.dtype == torch.float32, "a head and its logits are in float32"
    assert torch.allclose(mine.logits, theirs.logits, atol=0.03 * float(theirs.logits.abs().max()))
    mine.loss.backward()
    theirs.loss.backward()
    gradients = [
        torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None])
        for model in (own, rounded)
    ]
    assert gradients[0].dtype == torch.float32
    assert torch.cosine_similarity(*gradients, dim=0) > 0.99
    torch.optim.AdamW(trained.values(), lr=1e-3, fused=True).step()
    assert all(torch.equal(before[path], weight) for path, weight in frozen.items())


@pytest.mark.parametrize(
    "name", ["lora", "prefix_layer", "bottleneck_adapter", pytest.param("bitfit", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("family", ["gpt2", "t5", "llama"])
def test_models_that_write_answer_alike(family, name):
    try:
        own, rounded = adapted(family, name, "bfloat16", kind="generation")
    except UnsupportedPair:
        pytest.skip("in float32 neither")
    inputs = two_rows()
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    mine, theirs = own(**inputs, labels=labels), rounded(**inputs, labels=labels)
    assert float(mine.loss) == pytest.approx(float(theirs.loss), rel=0.01)
    with torch.autocast("cpu", torch.bfloat16):
        assert float(own(**inputs, labels=labels).loss) == pytest.approx(float(theirs.loss), rel=0.02)


def test_full_fine_tuning_is_in_bfloat16_and_never_in_float16():
    model, head = tiny_model("gpt2", "generation")
    model = known_methods()["full"]().apply(model.bfloat16(), head=head)
    meet(model, head, "bfloat16")
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    weight = model.get_output_embeddings().weight
    with torch.no_grad():
        weight.fill_(1.0)
        # bfloat16 has 8 significant bits: below 1 the next number is 2 ** -8 away.
        weight.sub_(2.0**-10)
    assert (weight == 1.0).all(), "what a small update to a weight in bfloat16 comes to"
    other, head = tiny_model("gpt2")
    with pytest.raises(UnsupportedPair, match="float16"):
        meet(known_methods()["full"]().apply(other.half(), head=head), head, "float16")


def test_a_base_is_read_in_its_type_and_its_head_drawn_in_float32(tmp_path):
    found = find_model(str(write_model(tmp_path / "base")), base=tmp_path)
    for on_meta in (False, True):
        model, head = load_model(found, kind="classification", labels=3, precision="bfloat16", on_meta=on_meta)
        types = {
            path.split(".")[0] in head: {
                weight.dtype for weight in model.get_submodule(path.split(".")[0]).parameters()
            }
            for path, _ in model.named_parameters()
        }
        assert types == {False: {torch.bfloat16}, True: {torch.float32}}
    whole, _ = load_model(found, kind="classification", labels=3)
    rounded, _ = load_model(found, kind="classification", labels=3, precision="bfloat16")
    assert torch.equal(
        whole.roberta.embeddings.word_embeddings.weight.bfloat16(), rounded.roberta.embeddings.word_embeddings.weight
    )


def test_float32_changes_nothing():
    model, head = tiny_model("roberta")
    model = known_methods()["lora"]().apply(model, head=list(head))
    before = copy.deepcopy(vars(model.base_model.model))
    meet(model, head, "float32")
    assert vars(model.base_model.model).keys() == before.keys()
