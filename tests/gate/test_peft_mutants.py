"""The suite `peft-fork` finds changes of PEFT that spoil training, and passes those that do not."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import AdaLoraConfig, IA3Config, LoraConfig, VeraConfig, get_peft_model
from torch import nn

from benchmarks.peft_mutants import CHANGES, SUITE, changed, held_against
from lora_bench.cli.parser import main
from lora_bench.gate import read_nights
from lora_bench.pack.group_runs import company_of
from lora_bench.plan.make_plan import make_plan
from lora_bench.suite.load_suite import load_suite

ROUNDED = "inputs of A rounded to bfloat16"
ROOT = Path(__file__).parents[2]
NOT_FOUND = {ROUNDED, "VeRA: b at one"}
HARMLESS = [name for name, change in CHANGES.items() if change.code == 0 and name not in NOT_FOUND]
CONFIGS = {
    "ia3": lambda dropout: IA3Config(target_modules=["0"], feedforward_modules=[], modules_to_save=["1"]),
    "vera": lambda dropout: VeraConfig(r=3, target_modules=["0"], vera_dropout=dropout, modules_to_save=["1"]),
    "adalora": lambda dropout: AdaLoraConfig(
        init_r=3, target_r=1, total_step=8, lora_dropout=dropout, target_modules=["0"], modules_to_save=["1"]
    ),
}
X = torch.linspace(-1, 1, 24).reshape(3, 8)


def adapted(dropout=0.0, series="plain"):
    """A linear layer and a head with a series' method of PEFT on the layer, drawn from the same seed each time."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 2))
    lora = LoraConfig(r=3, lora_alpha=7, lora_dropout=dropout, target_modules=["0"], modules_to_save=["1"])
    return get_peft_model(model, CONFIGS[series](dropout) if series in CONFIGS else lora)


def stepped(model):
    """What a model answers after all its weights were trained a little."""
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight += torch.linspace(-0.1, 0.2, weight.numel()).reshape(weight.shape)
    return model(X)


def test_each_mutant_is_the_fault_that_it_is_named_for():
    def of(name, look, **options):
        with changed(CHANGES[name].patches):
            return look(adapted(series=CHANGES[name].series[0], **options))

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
    assert of("IA3: l drawn, not at one", lambda model: layer(model).ia3_l["default"]).ne(1).all()
    assert of("VeRA: d at zero", lambda model: layer(model).vera_lambda_d["default"]).eq(0).all()
    assert of("VeRA: b at one", lambda model: layer(model).vera_lambda_b["default"]).eq(1).all()
    assert of("AdaLoRA: scaling halved", lambda model: layer(model).scaling["default"]) == 4
    assert of("AdaLoRA: all ranks kept", ranks_after_eight_steps) == [True] * 3
    assert sum(ranks_after_eight_steps(adapted(series="adalora"))) == 1


def ranks_after_eight_steps(model):
    """The rank pattern of a layer after AdaLoRA's schedule."""
    for step in range(9):
        stepped(model).square().sum().backward()
        model.base_model.update_and_allocate(step)
    (pattern,) = model.peft_config["default"].rank_pattern.values()
    return pattern


@pytest.mark.parametrize("name", HARMLESS)
def test_a_harmless_change_answers_as_before_and_draws_the_same_masks(name):
    series = CHANGES[name].series[0]
    for dropout in (0.0, 0.5):
        plain = adapted(dropout, series)
        with changed(CHANGES[name].patches):
            other = adapted(dropout, series)
            other.load_state_dict(plain.state_dict())
            torch.manual_seed(1)
            found = stepped(other)
        torch.manual_seed(1)
        torch.testing.assert_close(found, stepped(plain))


def test_peft_is_as_it_was_afterwards():
    of_each = lambda: [stepped(adapted(0.5, series).eval()) for series in ("plain", *CONFIGS)]  # noqa: E731
    before = of_each()
    for change in CHANGES.values():
        with changed(change.patches):
            adapted(0.5, change.series[0])
    assert all(map(torch.equal, of_each(), before))


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
