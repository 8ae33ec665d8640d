"""Rates of a method's own are the Trainer's groups of weights, split by factor."""

import torch
from torch.optim import AdamW
from transformers import Trainer, TrainingArguments

from lora_bench.methods import known_methods
from lora_bench.testing import tiny_model
from lora_bench.training.trainer import set_rates


def trainer_of(tmp_path, name="lora", head_rate=None, **options):
    model, head = tiny_model("roberta")
    method = known_methods()[name](**({"rank": 2, **options} if name == "lora" else options))
    model = method.apply(model, head=head)
    arguments = TrainingArguments(
        tmp_path, learning_rate=1e-3, weight_decay=0.1, use_cpu=True, report_to="none", optim="adamw_torch"
    )
    trainer = Trainer(model, arguments)
    set_rates(trainer, method, model, head, head_rate)
    return trainer


def rates(trainer) -> dict[str, tuple[float, float]]:
    """Rate and decay of each weight by name."""
    names = {weight: name for name, weight in trainer.model.named_parameters()}
    groups = trainer.create_optimizer().param_groups
    return {names[weight]: (group["lr"], group["weight_decay"]) for group in groups for weight in group["params"]}


def test_each_weight_keeps_its_decay_and_only_b_gets_another_rate(tmp_path):
    plain, plus = rates(trainer_of(tmp_path)), rates(trainer_of(tmp_path, ratio=16.0))
    assert plain.keys() == plus.keys() and {rate for rate, _ in plain.values()} == {1e-3}
    assert {decay for _, decay in plain.values()} == {0.0, 0.1}
    for name, (rate, decay) in plus.items():
        assert decay == plain[name][1]
        assert rate == (16e-3 if ".lora_B." in name else 1e-3)


def test_without_a_rate_of_its_own_the_trainer_makes_the_optimiser_later(tmp_path):
    assert trainer_of(tmp_path).optimizer is None


def test_the_first_step_of_b_is_sixteen_times_as_long_through_a_schedule(tmp_path):
    trainer = trainer_of(tmp_path, ratio=16.0)
    trainer.create_optimizer_and_scheduler(10)
    assert isinstance(trainer.optimizer, AdamW)
    trainer.lr_scheduler.step()  # a tenth of a linear decay is done
    names = {weight: name for name, weight in trainer.model.named_parameters()}
    found = {
        ".lora_B." in names[weight]: group["lr"]
        for group in trainer.optimizer.param_groups
        for weight in group["params"]
    }
    assert torch.allclose(torch.tensor([found[False], found[True]]), torch.tensor([9e-4, 16 * 9e-4]))


def test_the_head_gets_its_own_rate_beside_those_of_a_method(tmp_path):
    trainer = trainer_of(tmp_path, ratio=16.0, head_rate=3e-4)
    found = {rate: {name.split(".")[2] for name in of} for rate, of in by_rate(trainer).items()}
    assert found == {1e-3: {"roberta"}, 16e-3: {"roberta"}, 3e-4: {"classifier"}}
    plain = rates(trainer_of(tmp_path))
    assert {name: decay for name, (_, decay) in rates(trainer).items()} == {
        name: decay for name, (_, decay) in plain.items()
    }


def test_the_head_of_full_fine_tuning_gets_its_own_rate_too(tmp_path):
    found = by_rate(trainer_of(tmp_path, "full", head_rate=3e-4))
    assert {name.split(".")[0] for name in found[3e-4]} == {"classifier"}
    assert {name.split(".")[0] for name in found[1e-3]} == {"roberta"}


def by_rate(trainer) -> dict[float, list[str]]:
    found: dict[float, list[str]] = {}
    for name, (rate, _) in rates(trainer).items():
        found.setdefault(rate, []).append(name)
    return found
