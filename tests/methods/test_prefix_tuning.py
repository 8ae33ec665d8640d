"""Prefix tuning keeps the contract, plain and reparameterised."""

import pytest

from lora_bench.measure import count_parameters
from lora_bench.methods import known_methods
from lora_bench.testing import check_method, tiny_models

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
    counts = count_parameters(model, head=head, total=0)
    assert counts.adapter == length * WIDTH + units * WIDTH + units + LAYERS * (2 * WIDTH * units + 2 * WIDTH)
    assert counts.stored - counts.head == 2 * LAYERS * length * WIDTH
