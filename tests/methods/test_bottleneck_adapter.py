"""Every variant of the bottleneck adapter keeps the contract and has the size of the table in its card."""

import json

import pytest
from pydantic import ValidationError

from lora_bench.methods import known_methods
from lora_bench.testing import check_method, tiny_models

BottleneckAdapter = known_methods()["bottleneck_adapter"]
LAYERS, WIDTH = 2, 32


@pytest.mark.parametrize("variant", ["houlsby", "pfeiffer", "parallel", "lin"])
@pytest.mark.parametrize("initialisation", ["identity", "paper"])
def test_contract(variant, initialisation):
    check_method(
        BottleneckAdapter(bottleneck_size=3, variant=variant, initialisation=initialisation),
        families=list(tiny_models()),
    )


@pytest.mark.parametrize("family", tiny_models())
@pytest.mark.parametrize("size", [1, 5, 16])
def test_the_count_is_the_cards_formula(family, size):
    d, b = WIDTH, size
    cards = {"houlsby": 2 * (2 * d * b + b + d), "pfeiffer": 2 * d * b + b + d, "parallel": 2 * d * b + b + d}
    for variant, per_layer in {**cards, "lin": 2 * d * b + b + 3 * d}.items():
        for skipped in ((), (1,)):
            model, head = tiny_models()[family]
            method = BottleneckAdapter(bottleneck_size=size, variant=variant, skip_layers=skipped)
            model = method.apply(model, head=head)
            adapter = sum(weight.numel() for path, weight in model.named_parameters() if ".bottleneck_" in path)
            assert adapter == (LAYERS - len(skipped)) * per_layer


def test_options_survive_a_record_and_layers_have_one_order():
    method = BottleneckAdapter(variant="lin", skip_layers=[1, 0, 1])
    assert method.skip_layers == (0, 1)
    assert BottleneckAdapter(**json.loads(json.dumps(method.model_dump(mode="json")))) == method


@pytest.mark.parametrize("layers", [(-1,), ("1",), (True,)])
def test_layers_that_cannot_be_meant_are_refused(layers):
    with pytest.raises(ValidationError, match="skip_layers"):
        BottleneckAdapter(skip_layers=layers)
