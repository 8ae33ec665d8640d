"""The suite `peft-fork` finds changes of PEFT that spoil training, and passes those that do not."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from benchmarks.peft_mutants import CHANGES, SUITE, changed, held_against
from lora_bench.cli.parser import main
from lora_bench.gate import read_nights
from lora_bench.pack.group_runs import company_of
from lora_bench.plan.make_plan import make_plan
from lora_bench.suite.load_suite import load_suite

ROUNDED = "inputs of A rounded to bfloat16"
ROOT = Path(__file__).parents[2]
HARMLESS = [name for name, change in CHANGES.items() if change.code == 0 and name != ROUNDED]
X = torch.linspace(-1, 1, 24).reshape(3, 8)


def adapted(dropout=0.0, **options):
    """A linear layer and a head with PEFT's LoRA on the layer, drawn from the same seed each time."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 2))
    return get_peft_model(
        model,
        LoraConfig(r=3, lora_alpha=7, lora_dropout=dropout, target_modules=["0"], modules_to_save=["1"], **options),
    )


def stepped(model):
    """What a model answers after B was trained a little."""
    layer = model.base_model.model[0]
    with torch.no_grad():
        layer.lora_B["default"].weight += torch.linspace(-0.1, 0.1, 18).reshape(6, 3)
    return model(X)


def test_each_mutant_is_the_fault_that_it_is_named_for():
    def of(name, look, **options):
        with changed(CHANGES[name].patches):
            return look(adapted(**options))

    layer = lambda model: model.base_model.model[0]  # noqa: E731
    assert of("scaling halved", lambda model: layer(model).scaling["default"]) == 7 / 3 / 2
    assert isinstance(
        of("dropout dropped", lambda model: layer(model).lora_dropout["default"], dropout=0.5), nn.Identity
    )
    assert of("B not at zero", lambda model: layer(model).lora_B["default"].weight.abs().min()) > 0
    trained = of(
        "`modules_to_save` forgotten",
        lambda model: [name for name, one in model.named_parameters() if one.requires_grad],
    )
    assert len(trained) == 2 and all(".lora_" in name for name in trained)
    assert of("A and B in bfloat16", lambda model: layer(model).lora_A["default"].weight.dtype) == torch.bfloat16
    assert of(ROUNDED, stepped).ne(stepped(adapted())).any()


@pytest.mark.parametrize("name", HARMLESS)
def test_a_harmless_change_answers_as_before_and_draws_the_same_masks(name):
    for dropout in (0.0, 0.5):
        plain = adapted(dropout=dropout)
        with changed(CHANGES[name].patches):
            other = adapted(dropout=dropout)
            other.load_state_dict(plain.state_dict())
            torch.manual_seed(1)
            found = stepped(other)
        torch.manual_seed(1)
        torch.testing.assert_close(found, stepped(plain))


def test_peft_is_as_it_was_afterwards():
    before = stepped(adapted(dropout=0.5).eval())
    for change in CHANGES.values():
        with changed(change.patches):
            adapted(dropout=0.5)
    assert torch.equal(stepped(adapted(dropout=0.5).eval()), before)


def test_the_committed_night_has_three_scores_of_every_series():
    (night,) = read_nights(ROOT / "baselines" / SUITE)
    assert len(night.cells) == 19 and all(len(cell.scores) == 3 for cell in night.cells)


@pytest.fixture
def planned(tmp_path):
    """The runs of the suite."""
    return [cell.job for cell in make_plan(load_suite(SUITE), tmp_path / "runs").cells]


@pytest.mark.slow
@pytest.mark.assets
def test_every_series_trains_by_peft_itself_and_in_no_pack(planned):
    assert {job.spec.method.label for job in planned} >= {
        label for change in CHANGES.values() for label in change.series
    }
    assert [job.run_id for job in planned if company_of(job) is not None] == []
    (night,) = read_nights(ROOT / "baselines" / SUITE)
    assert {run.run_id for cell in night.cells for run in cell.runs} == {job.run_id for job in planned}


@pytest.mark.slow
@pytest.mark.assets
def test_a_mutant_is_found_and_a_harmless_change_passes(planned, tmp_path):
    few = [job.run_id for job in planned if job.spec.method.label == "plain"]
    only = [option for run_id in few for option in ("--only", run_id)]
    assert len(few) == 3
    assert main(["run", SUITE, "--runs", str(tmp_path), "--workers", "0", "--quiet", *only]) == 0
    for name, code in (("scaling halved", 1), ("(B A) x in place of B (A x)", 0)):
        change = replace(CHANGES[name], series=("plain",))
        found = held_against(change, tmp_path / SUITE, tmp_path / str(code))
        assert found.code == code, found.lines
        assert found.seeds == 3 and ["plain: a loss is shown" in line for line in found.lines][:1] == [code == 1]
