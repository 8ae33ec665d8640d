"""Prefix tuning keeps the contract, plain and reparameterised."""

import pytest

from lora_bench.methods import known_methods
from lora_bench.testing import check_method, tiny_models
from lora_bench.tuners import folded_away

PrefixTuning = known_methods()["prefix_tuning"]
LAYERS, WIDTH = 2, 32


def test_contract():
    check_method(
        PrefixTuning(num_virtual_tokens=3, reparameterised=True, reparameterisation_width=6),
        families=list(tiny_models()),
    )


@pytest.mark.parametrize("family", tiny_models())
@pytest.mark.parametrize(("length", "units"), [(1, 1), (5, 8)])
def test_the_counts_are_the_cards_formulas(family, length, units):
    model, head = tiny_models()[family]
    method = PrefixTuning(num_virtual_tokens=length, reparameterised=True, reparameterisation_width=units)
    model = method.apply(model, head=head)
    trained = sum(w.numel() for path, w in model.named_parameters() if ".prefix_" in path and w.requires_grad)
    assert trained == length * WIDTH + units * WIDTH + units + LAYERS * (2 * WIDTH * units + 2 * WIDTH)
    assert trained - folded_away(model) == 2 * LAYERS * length * WIDTH
