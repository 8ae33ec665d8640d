"""A method under several labels, each with a budget or a head's rate of its own."""

from lora_bench.plan.make_plan import make_plan
from lora_bench.suite.load_suite import load_suite
from tests.project import SUITE, write_project


def specs(tmp_path, methods, more, work="train_examples: 48"):
    """The specs of the planned runs, without those that wait for trials."""
    text = SUITE.replace("[full, lora, bottleneck_adapter, prefix_tuning]", methods) + more
    text = text.replace("train_examples: 48", work)
    plan = make_plan(load_suite(write_project(tmp_path / "project", text)), tmp_path / "runs")
    return [cell.job.spec for cell in plan.cells]


def test_labels_state_equal_seconds_for_several_methods_and_several_times_as_many(tmp_path):
    methods = "[full, {method: full, label: full-3}, lora_all, {method: lora_all, label: lora_all-3}]"
    recipes = "recipes:\n  - {methods: [full-3, lora_all-3], train_seconds: 180}\n"
    found = specs(tmp_path, methods, recipes, work="train_seconds: 60")
    seconds = {spec.method.label: spec.training.train_seconds for spec in found}
    assert seconds == {"full": 60.0, "full-3": 180.0, "lora_all": 60.0, "lora_all-3": 180.0}


def test_a_label_tries_its_rates_with_the_heads_rate_of_its_recipe(tmp_path):
    rates = "learning_rate: [1e-3, 3e-3]"
    methods = f"[{{method: lora, {rates}}}, {{method: lora, label: lora-head, {rates}}}]"
    found = specs(
        tmp_path, methods, "recipes:\n  - {methods: lora-head, head_learning_rate: 1e-2}\ntuning: {seeds: [100]}\n"
    )
    tried = {(spec.method.label, spec.training.learning_rate, spec.training.head_learning_rate) for spec in found}
    assert tried == {
        (label, rate, head) for label, head in (("lora", None), ("lora-head", 1e-2)) for rate in (1e-3, 3e-3)
    }
