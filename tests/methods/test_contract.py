"""Every built-in method keeps the contract, and its counts are what arithmetic says."""

import pytest

from lora_bench.errors import LoraBenchError
from lora_bench.methods import known_methods, register, with_size
from lora_bench.testing import check_method, tiny_models
from lora_bench.training.measure.counters import count_parameters

LAYERS, WIDTH = 2, 32


@pytest.mark.parametrize("name", sorted(set(known_methods()) - {"peft"}))  # which needs to be told what of PEFT
def test_contract(name):
    encoders_only = {"prefix_embedding": ["roberta", "deberta-v2"]}
    check_method(known_methods()[name](), families=encoders_only.get(name, list(tiny_models())))


def adapter_parameters(name, family, **options):
    model, head = tiny_models()[family]
    return count_parameters(known_methods()[name](**options).apply(model, head=head), head=head, total=0).adapter


@pytest.mark.parametrize("family", ["roberta", "deberta-v2", "gpt2"])
@pytest.mark.parametrize("rank", [1, 4])
def test_lora_is_two_matrices_for_each_query_and_value(family, rank):
    assert adapter_parameters("lora", family, rank=rank) == LAYERS * 2 * (rank * WIDTH + WIDTH * rank)


@pytest.mark.parametrize("family", ["roberta", "deberta-v2", "gpt2"])
@pytest.mark.parametrize("size", [1, 5])
def test_bottleneck_adapters_are_two_layers_after_each_sub_layer(family, size):
    assert adapter_parameters("bottleneck_adapter", family, bottleneck_size=size) == LAYERS * 2 * (
        2 * WIDTH * size + size + WIDTH
    )


@pytest.mark.parametrize("family", ["roberta", "deberta-v2", "gpt2"])
def test_prefixes_are_a_key_and_a_value_for_each_layer_and_virtual_token(family):
    assert adapter_parameters("prefix_tuning", family, num_virtual_tokens=7) == LAYERS * 2 * 7 * WIDTH


def test_a_size_is_the_only_option_that_changes():
    lora = known_methods()["lora"](rank=4, scaling=1.5)
    assert with_size(lora, 9).model_dump() == {**lora.model_dump(), "rank": 9}


def test_a_second_method_of_the_same_name_is_refused_with_the_place_of_the_first():
    class Lora:
        name = "lora"
        size = None
        learning_rate = 1.0

    with pytest.raises(LoraBenchError, match=r"already registered by lora_bench\.methods\.lora\.Lora"):
        register(Lora)
