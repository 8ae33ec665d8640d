"""A linear probe trains the head alone, as it would train under the frozen model, and computes features once."""

import pytest
import torch

from lora_bench.errors import UnsupportedPair
from lora_bench.methods import known_methods
from lora_bench.plan.make_plan import make_plan
from lora_bench.suite.load_suite import load_suite
from lora_bench.testing import END, PAD, tiny_model
from lora_bench.training import callbacks
from lora_bench.training.run import run_job
from tests.project import SUITE, write_project

FAMILIES = ("roberta", "bert", "deberta-v2", "gpt2", "mpnet", "distilbert", "electra", "modernbert")


def batches(count=3):
    rows = [[5, 6, 7, END], [9, END, PAD, PAD], [8, 4, END, PAD], [7, 7, 3, END]]
    for number in range(count):
        ids = torch.tensor([rows[number % 4], rows[(number + 1) % 4]])
        yield {"input_ids": ids, "attention_mask": (ids != PAD).long(), "labels": torch.tensor([number % 3, 2])}


def trained(model, steps=9):
    """Losses of some steps, and the logits after them."""
    torch.manual_seed(0)
    head = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer, losses = torch.optim.AdamW(head, lr=1e-2), []
    for batch in batches(steps):
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    with torch.no_grad():
        return torch.stack(losses), model(**next(batches())).logits


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_training_the_head_under_the_frozen_model_without_dropout(family):
    base, head = tiny_model(family)
    plain, _ = tiny_model(family)
    probe = known_methods()["linear_probe"]().apply(base, head=list(head))
    for name, weight in plain.named_parameters():
        weight.requires_grad_(any(f".{module}." in f".{name}" for module in head))
    assert sum(weight.numel() for weight in probe.parameters() if weight.requires_grad) == sum(
        weight.numel() for weight in plain.parameters() if weight.requires_grad
    )
    for expected, found in zip(trained(plain.eval()), trained(probe.eval()), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_each_row_is_computed_once_alone_and_without_padding():
    base, head = tiny_model("roberta")
    seen = []
    base.roberta.encoder.register_forward_pre_hook(lambda module, args: seen.append(tuple(args[0].shape[:2])))
    probe = known_methods()["linear_probe"]().apply(base, head=head)
    trained(probe, steps=12)
    assert sorted(seen) == [(1, 2), (1, 3), (1, 4), (1, 4)]


def test_dropout_of_the_base_is_off_and_that_of_the_head_is_on():
    base, head = tiny_model("roberta")
    probe = known_methods()["linear_probe"]().apply(base, head=head).train()
    features = []
    base = probe.get_base_model()
    for module in base.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    base.classifier.register_forward_pre_hook(lambda module, args: features.append(args[0].clone()))
    batch = next(batches())
    first, second = (probe(**batch).logits for _ in range(2))
    assert torch.equal(*features) and not torch.equal(first, second)


def test_outside_of_the_classifier_the_base_model_is_itself():
    base, head = tiny_model("roberta")
    batch = {name: rows for name, rows in next(batches()).items() if name != "labels"}
    with torch.no_grad():
        expected = base.eval().roberta(**batch).last_hidden_state
        probe = known_methods()["linear_probe"]().apply(base, head=head).eval()
        probe(**batch)
        found = probe.get_base_model().roberta(**batch).last_hidden_state
    assert torch.equal(found, expected)


def test_the_head_is_saved_alone_and_loads_into_a_fresh_base(tmp_path):
    from peft import PeftModel
    from safetensors.torch import load_file

    base, head = tiny_model("roberta")
    probe = known_methods()["linear_probe"]().apply(base, head=head)
    trained(probe)
    probe.eval().save_pretrained(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert saved and all(".classifier." in name for name in saved)
    again = PeftModel.from_pretrained(tiny_model("roberta")[0], tmp_path).eval()
    batch = next(batches())
    with torch.no_grad():
        torch.testing.assert_close(again(**batch).logits, probe(**batch).logits)


def test_a_model_that_writes_has_no_head_to_train():
    base, head = tiny_model("gpt2", "generation")
    with pytest.raises(UnsupportedPair, match="has no head to train"):
        known_methods()["linear_probe"]().apply(base, head=head)


@pytest.mark.parametrize("family", ["roberta", "gpt2"])
@pytest.mark.parametrize("last_layer", ["whole", "read_position"])
def test_a_run_trains_nothing_but_the_head(tmp_path, family, last_layer, monkeypatch):
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path / "cache"))
    suite = (
        SUITE.replace(
            "[full, lora, bottleneck_adapter, prefix_tuning]", "[{method: linear_probe, learning_rate: 3e-2}]"
        ).replace("48", "480")
        + f"training: {{last_layer: {last_layer}}}\n"
    )
    (cell,) = make_plan(load_suite(write_project(tmp_path / "project", suite, family)), tmp_path / "runs").cells
    found = run_job(cell.job)
    assert found.status == "ok", found.reason
    assert found.parameters.adapter == 0 and found.parameters.trained == found.parameters.head > 0
    losses = [point.loss for point in found.curve]
    assert sum(losses[-5:]) < sum(losses[:5])


def test_a_stopped_run_that_goes_on_computes_features_anew_and_equals_one_that_was_not(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_BENCH_CACHE", str(tmp_path / "cache"))
    suite = SUITE.replace("[full, lora, bottleneck_adapter, prefix_tuning]", "[linear_probe]").replace("48", "640")
    path = write_project(tmp_path / "project", suite)
    (whole,), (stopped,) = (make_plan(load_suite(path), tmp_path / runs).cells for runs in ("whole", "stopped"))
    run_job(stopped.job, lambda step, steps, loss: callbacks.request_stop("SIGTERM") if step == 25 else None)
    callbacks.request_stop(None)
    resumed, expected = run_job(stopped.job), run_job(whole.job)
    assert resumed.resumed and (resumed.curve, resumed.scores) == (expected.curve, expected.scores)
