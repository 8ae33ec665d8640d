"""A loop of one's own on `accelerate` trains, stops and goes on with our tuners as a plain loop does."""

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from peft import PeftModel, get_peft_model
from torch.utils.data import DataLoader

from lora_bench.tuners import BottleneckConfig, FusedLoraConfig, PrefixConfig
from tests.tiny import tiny_batch, tiny_gpt2_classifier, tiny_roberta

TUNERS = {
    "bottleneck": (tiny_roberta, BottleneckConfig(bottleneck_size=4, modules_to_save=["classifier"])),
    "prefix": (tiny_roberta, PrefixConfig(num_virtual_tokens=3, modules_to_save=["classifier"])),
    "fused_lora": (tiny_gpt2_classifier, FusedLoraConfig(r=2, modules_to_save=["score"])),
}
each_tuner = pytest.mark.parametrize("name", TUNERS)
BATCH = tiny_batch((9, 6, 7, 9, 4, 8), labels=True)


@pytest.fixture(autouse=True)
def _one_accelerator_at_a_time():
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def adapted(name: str) -> PeftModel:
    make, config = TUNERS[name]
    torch.manual_seed(5)
    return get_peft_model(make(), config).eval()  # eval: no dropout, so that two loops agree


def parts(model: PeftModel):
    rows = [{key: values[row] for key, values in BATCH.items()} for row in range(6)]
    return model, torch.optim.AdamW(trained(model).values(), lr=0.01), DataLoader(rows, batch_size=2)


def trained(model) -> dict[str, torch.Tensor]:
    return {path: weight for path, weight in model.named_parameters() if weight.requires_grad}


def train(model, optimizer, loader, backward) -> None:
    for batch in loader:
        backward(model(**batch).loss)
        optimizer.step()
        optimizer.zero_grad()


def equal(one: PeftModel, other: PeftModel) -> bool:
    assert trained(one).keys() == trained(other).keys()
    return all(torch.equal(weight, trained(other)[path]) for path, weight in trained(one).items())


@each_tuner
def test_a_prepared_model_trains_and_is_saved_as_the_plain_one(name, tmp_path):
    plain = adapted(name)
    train(*parts(plain), lambda loss: loss.backward())
    accelerator = Accelerator(cpu=True)
    prepared = accelerator.prepare(*parts(adapted(name)))
    train(*prepared, accelerator.backward)
    model = accelerator.unwrap_model(prepared[0])
    assert equal(model, plain)
    assert not equal(model, adapted(name))
    model.save_pretrained(tmp_path, state_dict=accelerator.get_state_dict(prepared[0]))
    loaded = PeftModel.from_pretrained(TUNERS[name][0](), tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(loaded(**BATCH).logits, plain(**BATCH).logits)


@each_tuner
def test_a_loop_that_goes_on_from_its_saved_state_ends_where_the_whole_one_ends(name, tmp_path):
    plain, optimizer, loader = parts(adapted(name))
    for _ in range(2):
        train(plain, optimizer, loader, lambda loss: loss.backward())
    accelerator = Accelerator(cpu=True)
    first = accelerator.prepare(*parts(adapted(name)))
    train(*first, accelerator.backward)
    accelerator.save_state(str(tmp_path))
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=True)
    second = accelerator.prepare(*parts(adapted(name)))
    accelerator.load_state(str(tmp_path))
    train(*second, accelerator.backward)
    assert equal(accelerator.unwrap_model(second[0]), plain)


@each_tuner
def test_in_bfloat16_the_adapter_stays_float32_and_every_weight_of_it_moves(name):
    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    prepared = accelerator.prepare(*parts(adapted(name)))
    for _ in range(2):
        train(*prepared, accelerator.backward)
    model, start = accelerator.unwrap_model(prepared[0]), trained(adapted(name))
    assert {weight.dtype for weight in trained(model).values()} == {torch.float32}
    assert not any(torch.equal(weight, start[path]) for path, weight in trained(model).items())
