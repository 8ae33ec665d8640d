"""Presets: a method as its best users run it, under a name of its own."""

import pytest

from lora_bench.errors import LoraBenchError
from lora_bench.methods import known_methods, known_presets
from lora_bench.plan.make_plan import make_plan
from lora_bench.suite.load_suite import load_suite
from lora_bench.testing import tiny_model
from tests.project import SUITE, write_project


def suite_of(tmp_path, methods):
    return load_suite(
        write_project(tmp_path / "project", SUITE.replace("[full, lora, bottleneck_adapter, prefix_tuning]", methods))
    )


def test_no_preset_has_the_name_of_a_method_and_each_has_a_source_with_an_address():
    assert not known_presets().keys() & known_methods().keys()
    assert all("https://" in preset.source for _, preset in known_presets().values())


@pytest.mark.parametrize("name", known_presets())
def test_a_preset_is_its_method_with_options_that_differ_from_the_defaults(name):
    method, preset = known_presets()[name]
    found = method(**preset.options)
    assert found != method()
    model, head = tiny_model("roberta")
    assert any(weight.requires_grad for weight in found.apply(model, head=head).parameters())


def test_a_suite_names_presets_as_it_names_methods(tmp_path):
    entries = {entry.label: entry for entry in suite_of(tmp_path, "[full, lora_all, lora_qv, lora_plus]").methods}
    assert entries["lora_all"].method == known_methods()["lora"](targets=("all",), rank=16)
    assert entries["lora_all"].rates("base") == (1e-3,)
    # The paper's RoBERTa-base has alpha 8 at rank 8.
    assert entries["lora_qv"].method == known_methods()["lora"](rank=8, scaling=1.0)
    assert entries["lora_qv"].rates("base") == (5e-4,)
    assert entries["lora_plus"].method.ratio == 16.0


def test_options_and_rates_that_a_suite_gives_overrule_the_presets(tmp_path):
    (entry,) = suite_of(
        tmp_path, "[{method: lora_plus, label: mine, rank: 4, dropout: 0.0, learning_rate: 1e-4}]"
    ).methods
    assert (entry.label, entry.rates("base")) == ("mine", (1e-4,))
    assert entry.method == known_methods()["lora"](rank=4, ratio=16.0, dropout=0.0)


def test_a_preset_has_the_run_id_of_its_options_written_out(tmp_path):
    ids = []
    for methods in ("[lora_all]", "[{method: lora, label: mine, targets: [all], rank: 16}]"):
        (cell,) = make_plan(suite_of(tmp_path, methods), tmp_path / "runs").cells
        ids.append(cell.job.run_id)
    assert ids[0] == ids[1]


def test_an_unknown_name_is_answered_with_the_nearest_preset(tmp_path):
    with pytest.raises(LoraBenchError, match="did you mean 'lora_all'"):
        suite_of(tmp_path, "[lora_al]")
