"""Texts that share a row: the loss and the gradients of each alone, and a refusal where they would see each other."""

import pytest
import torch
from peft import PromptTuningConfig, get_peft_model

from lora_bench.errors import BadInput, UnsupportedPair
from lora_bench.execute.run_suite import run_suite
from lora_bench.families.decoders import DECODERS
from lora_bench.kinds.exercises.generation.encode import NO_LOSS, CompletionCollator, as_example, packing
from lora_bench.methods import known_methods
from lora_bench.models.sample_packing import check_packing
from lora_bench.pack.group_runs import company_of
from lora_bench.plan.make_plan import make_plan
from lora_bench.suite.load_suite import load_suite
from lora_bench.testing import VOCABULARY, tiny_model
from tests.chats import chat_tokenizer
from tests.project import write_project as write_classification
from tests.training.test_chat_runs import ONE, write_project
from tests.training.test_class_weights import LORA

METHODS = {
    "full": {},
    "lora": {"rank": 4},
    "bottleneck_adapter": {"bottleneck_size": 4},
    "prefix_tuning": {"num_virtual_tokens": 3},
    "prefix_layer": {"num_virtual_tokens": 3},
}
APART = [family.name for family in DECODERS if family.name != "opt"]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path / "cache"))


def texts(*lengths):
    """Texts of random tokens, each with a prompt of two tokens."""
    drawn = torch.Generator().manual_seed(0)
    ids = [torch.randint(3, VOCABULARY, (length,), generator=drawn).tolist() for length in lengths]
    return [{**as_example(one), "labels": [NO_LOSS] * 2 + one[2:]} for one in ids]


def loss_and_gradients(model, batch):
    model.zero_grad()
    loss = model(**batch).loss
    loss.backward()
    return loss.item(), {
        name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None
    }


def adapted(family, method, **options):
    model, head = tiny_model(family, "generation")
    torch.manual_seed(1)
    return known_methods()[method](**{**METHODS.get(method, {}), **options}).apply(model, head=head).eval()


def test_rows_are_as_long_as_the_longest_text_and_no_label_crosses_from_one_to_the_next():
    examples = texts(4, 9, 3, 5)
    examples[3]["labels"] = list(examples[3]["input_ids"])  # an answer at the first token
    batch = packing(CompletionCollator(chat_tokenizer()))(examples)
    long, first, third, fourth = (examples[place]["input_ids"] for place in (1, 0, 2, 3))
    assert batch["input_ids"].tolist() == [long, fourth + first, third + [1] * 6]
    assert batch["position_ids"].tolist() == [[*range(9)], [*range(5), *range(4)], [*range(3)] + [0] * 6]
    assert batch["labels"][1].tolist() == [NO_LOSS, *fourth[1:], NO_LOSS, NO_LOSS, *first[2:]]
    assert "attention_mask" not in batch


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "family", [pytest.param(one, marks=() if one in ("gpt2", "llama") else pytest.mark.slow) for one in APART]
)
def test_loss_and_gradients_are_those_of_the_texts_alone(family, method):
    model, collate = adapted(family, method), CompletionCollator(chat_tokenizer())
    check_packing(model)
    examples = texts(4, 9, 3, 5, 14, 6)
    packed = packing(collate)(examples)
    assert packed["input_ids"].shape == (3, 14)
    padded_loss, padded = loss_and_gradients(model, collate(examples))
    loss, found = loss_and_gradients(model, packed)
    assert loss == pytest.approx(padded_loss, rel=1e-6)
    assert found.keys() == padded.keys() and found
    for name, gradient in padded.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)


def test_a_model_or_a_method_whose_texts_see_each_other_is_refused():
    with pytest.raises(UnsupportedPair, match="texts that share a row see each other"):
        check_packing(adapted("opt", "lora"))
    model, _ = tiny_model("llama", "generation")
    with pytest.raises(UnsupportedPair, match="sample_packing: "), pytest.warns(UserWarning, match="Position ids"):
        check_packing(get_peft_model(model, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)))


def test_packed_chats_have_the_curve_of_padded_ones_and_another_id(tmp_path):
    path = write_project(tmp_path / "project", ONE)
    (padded,) = run_suite(path, runs=tmp_path / "runs", workers=0).records
    path.write_text(ONE.replace("max_length: 48", "max_length: 48, sample_packing: true"), encoding="utf-8")
    (packed,) = run_suite(path, runs=tmp_path / "runs", workers=0).records
    assert (packed.status, packed.reason) == ("ok", None) and packed.run_id != padded.run_id
    assert packed.speed.train_examples == padded.speed.train_examples == 64
    assert packed.speed.train_real_tokens == padded.speed.train_real_tokens
    assert [one.loss for one in packed.curve] == pytest.approx([one.loss for one in padded.curve], abs=1e-4)
    path.write_text(ONE.replace("max_length: 48", "max_length: 48, sample_packing: false"), encoding="utf-8")
    assert [cell.job.run_id for cell in make_plan(load_suite(path), tmp_path / "runs").cells] == [padded.run_id]


def test_what_cannot_be_packed_is_refused_by_the_plan_or_done_alone(tmp_path):
    packed = ONE.replace("max_length: 48", "max_length: 48, sample_packing: true")
    path = write_project(tmp_path / "project", packed)
    (cell,) = make_plan(load_suite(path), tmp_path / "runs").cells
    assert company_of(cell.job) is None
    path.write_text(packed.replace("{train_examples: 64}", "{train_flops: 1e9}"), encoding="utf-8")
    with pytest.raises(BadInput, match=r"sample_packing: .*counted with a row a text: take train_tokens"):
        make_plan(load_suite(path), tmp_path / "runs")
    path = write_classification(tmp_path / "classes", f"{LORA}training: {{sample_packing: true}}\n")
    with pytest.raises(BadInput, match="sample_packing is for texts that a causal model writes, which lora on"):
        make_plan(load_suite(path), tmp_path / "runs")
