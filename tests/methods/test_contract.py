"""Every built-in method keeps the contract, and its counts are what arithmetic says."""

from typing import ClassVar

import pytest

from lora_bench.documents import Strict
from lora_bench.errors import LoraBenchError
from lora_bench.methods import known_methods, register, with_size
from lora_bench.testing import check_method, tiny_models
from lora_bench.training.measure.counters import count_parameters

LAYERS, WIDTH = 2, 32


# `peft` and `combined` need to be told what, and `qlora` needs bitsandbytes: tests/tuners/test_four_bit.py. `linear_probe` adds
# nothing to the head, and loads as a plain model, equal up to rounding: tests/methods/test_linear_probe.py.
@pytest.mark.parametrize("name", sorted(set(known_methods()) - {"peft", "combined", "qlora", "linear_probe"}))
def test_contract(name):
    check_method(known_methods()[name](), families=list(tiny_models()))


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
    class Lora(Strict):
        name: ClassVar[str] = "lora"
        size: ClassVar[str | None] = None
        learning_rate: ClassVar[float] = 1.0

        def apply(self, model, *, head):
            return model

    with pytest.raises(LoraBenchError, match=r"already registered by lora_bench\.methods\.lora\.Lora"):
        register(Lora)


def test_a_class_that_lacks_what_a_method_needs_is_refused_with_all_that_it_lacks():
    class Empty(Strict):
        pass

    class Sized(Strict):
        name: ClassVar[str] = "sized"
        size: ClassVar[str | None] = "rnak"
        learning_rate: ClassVar[float] = 1e-3
        rank: int = 8

        def apply(self, model, *, head):
            return model

    class Plain:
        name = "plain"

    class Slow(Sized):
        name: ClassVar[str] = "slow"
        size: ClassVar[str | None] = None
        learning_rate: ClassVar[float] = 0.0

    class Headless(Slow):
        name: ClassVar[str] = "headless"
        learning_rate: ClassVar[float] = 1e-3
        callbacks: ClassVar[tuple] = ()

        def apply(self, model):
            return model

    lacks = {
        Headless: r"it lacks apply\(model, \*, head\) and callbacks\(\) as a method, if it has any$",
        Empty: r"'.*Empty' is no method: it lacks a name .* and a size .* and a learning_rate .* and apply\(model",
        Sized: r"a size that is None or one of its options \(rank\)$",
        Plain: "make it a subclass of lora_bench.documents.Strict",
        Slow: r"it lacks a learning_rate \(a number above 0\)$",
    }
    for method, said in lacks.items():
        with pytest.raises(LoraBenchError, match=said):
            register(method)
    assert not {"sized", "plain", "slow", "headless"} & known_methods().keys()
