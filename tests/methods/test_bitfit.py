"""BitFit frees every bias, `full` with top_layers the layers next to the head, and neither anything else."""

import pytest
import torch

from lora_bench.errors import UnsupportedPair
from lora_bench.methods import known_methods
from lora_bench.testing import check_method, tiny_models
from tests.tiny import tiny_deberta

BitFit, Full = known_methods()["bitfit"], known_methods()["full"]


def freed(model, head):
    names = [path for path, weight in model.named_parameters() if weight.requires_grad]
    return [path for path in names if not any(f".{module}." in path for module in head)]


def test_contract():
    check_method(Full(top_layers=1), families=list(tiny_models()))


@pytest.mark.parametrize("family", tiny_models())
def test_bitfit_frees_every_bias_and_nothing_else(family):
    model, head = tiny_models()[family]
    biases = {path for path, _ in model.named_parameters() if path.endswith("bias") and path.split(".")[0] not in head}
    found = {path.removeprefix("base_model.model.") for path in freed(BitFit().apply(model, head=head), head)}
    assert found == biases


def test_the_biases_of_deberta_v1s_queries_and_values_are_biases():
    found = freed(BitFit().apply(tiny_deberta(), head=["pooler", "classifier"]), ["pooler", "classifier"])
    assert sum(path.endswith(("attention.self.q_bias", "attention.self.v_bias")) for path in found) == 4


@pytest.mark.parametrize("family", tiny_models())
def test_top_layers_are_whole_layers_counted_from_the_head(family):
    model, head = tiny_models()[family]
    blocks = {"roberta": "roberta.encoder.layer", "deberta-v2": "deberta.encoder.layer", "gpt2": "transformer.h"}
    top = {f"{blocks[family]}.1.{path}" for path, _ in model.get_submodule(f"{blocks[family]}.1").named_parameters()}
    found = {path.removeprefix("base_model.model.") for path in freed(Full(top_layers=1).apply(model, head=head), head)}
    assert found == top


def test_more_top_layers_than_there_are_is_refused():
    model, head = tiny_models()["roberta"]
    with pytest.raises(UnsupportedPair, match="top_layers must be at most 2, the layers of the model, got 3"):
        Full(top_layers=3).apply(model, head=head)


def test_all_layers_are_still_less_than_the_whole_model():
    model, head = tiny_models()["roberta"]
    with torch.no_grad():
        adapted = Full(top_layers=2).apply(model, head=head)
    assert not any("embeddings" in path for path in freed(adapted, head))
